-- Put a value in place of another, if that is still there.
--
-- KEYS  1 a string
-- ARGV  1 what has to be there ("": nothing)  2 the new value  3 its time to live in ms
-- Reply 1 when it is put, 0 when something else was there.

if (redis.call("GET", KEYS[1]) or "") ~= ARGV[1] then
  return 0
end
redis.call("SET", KEYS[1], ARGV[2], "PX", ARGV[3])
return 1
