-- Merge into a session's data, all or nothing. Merging nothing reads it.
--
-- KEYS  1 data  2 the session's facts
-- ARGV  1  bytes that all names and values may have together
--       2  time to live in ms (0: kept) while the session has no facts yet; after that the facts' own holds
--       3  number of names to remove, then these names; then name and value of what is to be set
-- Reply {name, value, name, value, ...} as it is now; nil when it would become too large, and nothing is changed.

local data, values, size = redis.call("HGETALL", KEYS[1]), {}, 0
for i = 1, #data, 2 do
  values[data[i]] = data[i + 1]
end
local first = 4 + tonumber(ARGV[3])
for i = 4, first - 1 do
  values[ARGV[i]] = nil
end
for i = first, #ARGV, 2 do
  values[ARGV[i]] = ARGV[i + 1]
end
for name, value in pairs(values) do
  size = size + #name + #value
end
if first <= #ARGV and size > tonumber(ARGV[1]) then
  return nil
end

for i = 4, first - 1 do
  redis.call("HDEL", KEYS[1], ARGV[i])
end
for i = first, #ARGV, 2 do
  redis.call("HSET", KEYS[1], ARGV[i], ARGV[i + 1])
end
local ttl = redis.call("PTTL", KEYS[2])
if ttl == -2 then
  ttl = tonumber(ARGV[2])
end
if ttl > 0 then
  redis.call("PEXPIRE", KEYS[1], ttl)
else
  redis.call("PERSIST", KEYS[1])
end
return redis.call("HGETALL", KEYS[1])
