-- Turns are done with in their stage: each leaves the stream, and goes to the next one's, in one step.
--
-- KEYS[1]  stream of turns
-- KEYS[2]  stream of the next stage, or KEYS[1] again where there is none
-- ARGV[1]  consumer group
-- ARGV[2]  consumer that holds them; what somebody else holds by now is left to them
-- ARGV[3..]  id, and what goes to the next stage's stream, by turns: "" for nothing, "=" for the turn as it is, else that
--
-- Returns the ids that were finished here.
local stream, group, consumer = KEYS[1], ARGV[1], ARGV[2]

local finished = {}
for at = 3, #ARGV, 2 do
  local id, forwarded = ARGV[at], ARGV[at + 1]
  local entry = redis.call("XRANGE", stream, id, id)[1]
  if entry and redis.call("XPENDING", stream, group, id, id, 1, consumer)[1] then
    -- First what may be refused for want of memory, so that a refusal loses nothing.
    if forwarded == "=" then
      redis.call("XADD", KEYS[2], "*", unpack(entry[2]))
    elseif forwarded ~= "" then
      redis.call("XADD", KEYS[2], "*", "turn", forwarded)
    end
    redis.call("XACK", stream, group, id)
    redis.call("XDEL", stream, id)
    finished[#finished + 1] = id
  end
end
return finished
