-- Give this consumer all turns that anybody holds in a stream that is its alone now, and forget consumers long gone.
--
-- KEYS[1]  stream of turns
-- ARGV[1]  consumer group
-- ARGV[2]  consumer that takes over
-- ARGV[3]  cursor: where the last call left off; "0-0" at first
-- ARGV[4]  how many turns at most
-- ARGV[5]  how many turns this consumer knows that it holds: nothing is done when it holds no more than these and
--          nobody else holds any; -1 to look in any case
-- ARGV[6]  how long a consumer without turns must have been silent to be forgotten, in ms
--
-- Returns {next cursor, {{id, deliveries, fields}, ...}}; the cursor is "0-0" at the end. Taking over counts no delivery.
-- A turn that is gone from the stream is gone from the group, too.
local stream, group, consumer = KEYS[1], ARGV[1], ARGV[2]

local known = tonumber(ARGV[5])
if known >= 0 and redis.call("XPENDING", stream, group)[1] <= known then
  return {"0-0", {}}
end

local reply = redis.call("XAUTOCLAIM", stream, group, consumer, 0, ARGV[3], "COUNT", ARGV[4], "JUSTID")
local taken = {}
for _, id in ipairs(reply[2]) do
  local entry = redis.call("XRANGE", stream, id, id)[1]
  local pending = redis.call("XPENDING", stream, group, id, id, 1)[1]
  if entry and pending then
    taken[#taken + 1] = {id, pending[4], entry[2]}
  elseif pending then
    redis.call("XACK", stream, group, id)
  end
end

for _, flat in ipairs(redis.call("XINFO", "CONSUMERS", stream, group)) do
  local other = {}
  for at = 1, #flat, 2 do
    other[flat[at]] = flat[at + 1]
  end
  if other.name ~= consumer and other.pending == 0 and other.idle > tonumber(ARGV[6]) then
    redis.call("XGROUP", "DELCONSUMER", stream, group, other.name)
  end
end

return {reply[1], taken}
