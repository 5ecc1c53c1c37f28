-- End a lease before its time, if it is theirs.
--
-- KEYS[1]  lease
-- ARGV[1]  who has it
--
-- Returns 1 when it was theirs, else 0.
if redis.call("GET", KEYS[1]) == ARGV[1] then
  return redis.call("DEL", KEYS[1])
end
return 0
