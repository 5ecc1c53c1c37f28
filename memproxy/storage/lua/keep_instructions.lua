-- Keep a session's instructions for as long as the session lives.
-- KEYS  1 instructions  2 the session's main facts
-- ARGV  1 the instructions  2 time to live in ms (0: kept) while the session has no facts yet
local ttl = redis.call("PTTL", KEYS[2])
if ttl == -2 then
  ttl = tonumber(ARGV[2])
end
redis.call("SET", KEYS[1], ARGV[1])
if ttl > 0 then
  redis.call("PEXPIRE", KEYS[1], ttl)
end
