-- Write a memory anew under its key, unless somebody changed or deleted it since it was read. It keeps its first time.
-- KEYS[1]  the memory's document
-- ARGV[1]  its record, as it was read
-- ARGV[2..]  field, value, field, value, ...
-- Gives 1 if it was written, else 0.
if redis.call('HGET', KEYS[1], 'record') ~= ARGV[1] then
  return 0
end
local first = redis.call('HGET', KEYS[1], 'created_at')
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'created_at', first, unpack(ARGV, 2))
return 1
