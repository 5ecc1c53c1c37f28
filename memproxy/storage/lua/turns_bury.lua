-- Give a turn up: it moves to the dead letters with the reason, in one step.
--
-- KEYS[1]  stream of turns
-- KEYS[2]  dead letters
-- ARGV[1]  consumer group
-- ARGV[2]  consumer that holds it
-- ARGV[3]  id
-- ARGV[4]  reason
-- ARGV[5]  how often it was tried
-- ARGV[6]  how many dead letters are kept; the oldest make room
--
-- Returns 0 when somebody else holds it by now (then nothing is done), else 1, and one more for each letter that made room.
local stream, group, id = KEYS[1], ARGV[1], ARGV[3]

local entry = redis.call("XRANGE", stream, id, id)[1]
if not entry or not redis.call("XPENDING", stream, group, id, id, 1, ARGV[2])[1] then
  return 0
end
local turn = ""
for at = 1, #entry[2], 2 do
  if entry[2][at] == "turn" then
    turn = entry[2][at + 1]
  end
end
redis.call("XADD", KEYS[2], "*", "turn", turn, "reason", ARGV[4], "attempts", ARGV[5], "entry", id)
local dropped = redis.call("XTRIM", KEYS[2], "MAXLEN", ARGV[6])
redis.call("XACK", stream, group, id)
redis.call("XDEL", stream, id)
return 1 + dropped
