-- Say which of these turns this consumer still holds, and change how often they were tried.
--
-- KEYS[1]  stream of turns
-- ARGV[1]  consumer group
-- ARGV[2]  consumer that holds them
-- ARGV[3]  what to add to their number of deliveries: 1 counts an attempt, -1 takes one back, 0 leaves it
-- ARGV[4..]  ids
--
-- Returns the ids that are still held; the others were taken over, finished or deleted by somebody else.
local stream, group, consumer = KEYS[1], ARGV[1], ARGV[2]

local held = {}
for at = 4, #ARGV do
  local id = ARGV[at]
  local pending = redis.call("XPENDING", stream, group, id, id, 1, consumer)[1]
  if pending then
    local deliveries = math.max(1, pending[4] + tonumber(ARGV[3]))
    local claimed = redis.call("XCLAIM", stream, group, consumer, 0, id, "RETRYCOUNT", deliveries, "JUSTID")
    if #claimed > 0 then
      held[#held + 1] = id
    end
  end
end
return held
