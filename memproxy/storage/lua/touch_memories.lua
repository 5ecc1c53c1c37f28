-- Note that memories of one partition were looked at: those that are still there, and were not just noted.
-- KEYS  the memories' documents
-- ARGV[1]  the time, in seconds since 1970
-- ARGV[2]  how many seconds after one access the next is noted
-- Gives how many were noted.
local noted = 0
for _, key in ipairs(KEYS) do
  local there, last, count = unpack(redis.call('HMGET', key, 'record', 'last_accessed', 'access_count'))
  local rested = not last or tonumber(count) == 0 or tonumber(last) + tonumber(ARGV[2]) <= tonumber(ARGV[1])
  if there and rested then
    redis.call('HSET', key, 'last_accessed', ARGV[1], 'access_count', (tonumber(count or '0') or 0) + 1)
    noted = noted + 1
  end
end
return noted
