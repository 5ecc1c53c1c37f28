-- Put dead letters back at the end of their stage's stream, each in one step, so that two who ask get it once.
--
-- KEYS[1]  dead letters
-- KEYS[2]  stream of turns
-- ARGV  ids of dead letters
--
-- Returns how many went back.
local moved = 0
for _, id in ipairs(ARGV) do
  local letter = redis.call("XRANGE", KEYS[1], id, id)[1]
  if letter then
    for at = 1, #letter[2], 2 do
      if letter[2][at] == "turn" then
        redis.call("XADD", KEYS[2], "*", "turn", letter[2][at + 1])
      end
    end
    redis.call("XDEL", KEYS[1], id)
    moved = moved + 1
  end
end
return moved
