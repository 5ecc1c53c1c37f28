-- Take a lease that nobody has, or keep the own one for another while.
--
-- KEYS[1]  lease
-- ARGV[1]  who wants it
-- ARGV[2]  for how long, in ms
--
-- Returns 1 when it is theirs now, else 0.
local holder = redis.call("GET", KEYS[1])
if holder and holder ~= ARGV[1] then
  return 0
end
redis.call("SET", KEYS[1], ARGV[1], "PX", ARGV[2])
return 1
