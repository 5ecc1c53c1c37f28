-- Store one memory, whole or not at all. One that is there is replaced and keeps its first time; one that is there just
-- so is left alone, since each replacement leaves waste in the index that skews scores until it is collected.
-- KEYS[1]  the memory's document
-- ARGV[1]  its time, in seconds since 1970, if it is new
-- ARGV[2..]  field, value, field, value, ...
-- Gives 1 if the memory is new, else 0.
local first = redis.call('HGET', KEYS[1], 'created_at')
if first then
  local same = true
  for at = 2, #ARGV, 2 do
    same = same and redis.call('HGET', KEYS[1], ARGV[at]) == ARGV[at + 1]
  end
  if same then
    return 0
  end
  redis.call('DEL', KEYS[1])
end
redis.call('HSET', KEYS[1], 'created_at', first or ARGV[1], unpack(ARGV, 2))
return first and 0 or 1
