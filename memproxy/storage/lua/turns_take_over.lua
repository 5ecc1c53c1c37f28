-- Give this consumer the turns that their consumer has let lie, and forget consumers that are long gone.
--
-- KEYS[1]  stream of turns
-- ARGV[1]  consumer group
-- ARGV[2]  consumer that takes over
-- ARGV[3]  how long a turn must have lain, in ms
-- ARGV[4]  cursor: where the last call left off; "0-0" at first
-- ARGV[5]  how many turns at most
-- ARGV[6]  how long a consumer without turns must have been silent to be forgotten, in ms
--
-- Returns {next cursor, {{id, deliveries, fields}, ...}}. A turn that is gone from the stream is gone from the group too.
local stream, group, consumer = KEYS[1], ARGV[1], ARGV[2]

local reply = redis.call('XAUTOCLAIM', stream, group, consumer, ARGV[3], ARGV[4], 'COUNT', ARGV[5])
local taken = {}
for _, entry in ipairs(reply[2]) do
  local pending = redis.call('XPENDING', stream, group, entry[1], entry[1], 1)
  taken[#taken + 1] = {entry[1], pending[1][4], entry[2]}
end

for _, flat in ipairs(redis.call('XINFO', 'CONSUMERS', stream, group)) do
  local other = {}
  for at = 1, #flat, 2 do
    other[flat[at]] = flat[at + 1]
  end
  if other.name ~= consumer and other.pending == 0 and other.idle > tonumber(ARGV[6]) then
    redis.call('XGROUP', 'DELCONSUMER', stream, group, other.name)
  end
end

return {reply[1], taken}
