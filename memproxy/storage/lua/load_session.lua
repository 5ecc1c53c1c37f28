-- Find a conversation and read what a request needs of it, in one round trip.
--
-- KEYS  1..n    chain pointers, the longest prefix of the conversation first
--       n+1     only if ARGV[1] is "1": the named session's facts
-- ARGV  1       "1" when the client named its session
--       2       "1" to read the index in any case
--       3       how many of the newest messages to read when the chain does not fit exactly
--       4       bytes of one index entry
-- Reply {base, which chain pointer names exactly this log (0: none), for how many messages of it the pointer stands that
-- was found ("": none, or the log was rewritten), facts, pins, index, messages}; {} when nothing is known.
-- The keys of the session itself are derived from what the pointers say; they have the same hash tag as KEYS.

local named = ARGV[1] == "1"
local chains = #KEYS - (named and 1 or 0)
local base, matched, value = nil, 0, ""

for i = 1, chains do
  local found = redis.call("GET", KEYS[i])
  local name = found and string.match(found, "^(%S+)")
  if name and redis.call("EXISTS", "mp:s:" .. name) == 1 then
    base, matched, value = name, i, found
    break
  end
end
if not base and named then
  base = redis.call("HGET", KEYS[#KEYS], "current") or string.sub(KEYS[#KEYS], 6)
end
if not base then
  return {}
end

local facts = redis.call("HGETALL", "mp:s:" .. base)
if #facts == 0 then
  return {}
end
local known = {length = "0", cut = "0", rewrites = "0"}
for i = 1, #facts, 2 do
  if known[facts[i]] then known[facts[i]] = facts[i + 1] end
end

local pins = redis.call("HGETALL", "mp:pin:" .. base)
-- A log that code has rewritten is not the one that the pointer was made for, be it of the same length.
local reaches, rewrites = string.match(value, " (%d+) (%d+)$")
if rewrites ~= known.rewrites then reaches = "" end
local exact = matched > 0 and reaches == known.length
local index, messages = "", {}
if ARGV[2] == "1" or tonumber(known.cut) > 0 or not exact then
  index = redis.call("GET", "mp:idx:" .. base) or ""
end
if not exact and tonumber(ARGV[3]) > 0 then
  messages = redis.call("LRANGE", "mp:log:" .. base, -tonumber(ARGV[3]), -1)
end
return {base, exact and matched or 0, reaches, facts, pins, index, messages}
