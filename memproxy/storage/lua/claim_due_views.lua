-- Take the views that are due, and put them off: so each is taken by one worker.
--
-- KEYS  1 the views that are kept fresh, by when they are due in ms
-- ARGV  1 now in ms  2 when those taken are due again  3 most to take
-- Reply their names.

local due = redis.call("ZRANGEBYSCORE", KEYS[1], "-inf", ARGV[1], "LIMIT", 0, ARGV[3])
for _, name in ipairs(due) do
  redis.call("ZADD", KEYS[1], ARGV[2], name)
end
return due
