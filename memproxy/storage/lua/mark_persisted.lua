-- Say of memories beside a session that they are stored as memories; of those only that are still there.
--
-- KEYS  1 memories beside the session
-- ARGV  1 when, in ISO 8601; then their ids
-- Reply how many were still there.

local found = 0
for i = 2, #ARGV do
  if redis.call("HEXISTS", KEYS[1], "m:" .. ARGV[i]) == 1 then
    redis.call("HSET", KEYS[1], "p:" .. ARGV[i], ARGV[1])
    found = found + 1
  end
end
return found
