-- Note the session in which lines came, and say which of the sessions with each line it was.
--
-- KEYS[1]  the user's lines: digest -> "<second last seen> <session>,<session>,..."
-- ARGV  1  what stands for the session
--       2  how many sessions are remembered of a line
--       3  how many lines are kept; beyond that the quarter that was seen longest ago is let go
--       4  time to live in ms
--       5.. the digests of the lines
-- Gives for each line 1 if this session had it first, 2 if second, and so on; no more than ARGV[2].
local session, most, room = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local now = redis.call('TIME')[1]
local ranks = {}
for at = 5, #ARGV do
  local seen = {}
  local known = redis.call('HGET', KEYS[1], ARGV[at])
  local rank = nil
  for one in string.gmatch(known and string.match(known, ' (.*)$') or '', '[^,]+') do
    seen[#seen + 1] = one
    if one == session then rank = #seen end
  end
  if not rank and #seen < most then
    seen[#seen + 1] = session
    rank = #seen
  end
  redis.call('HSET', KEYS[1], ARGV[at], now .. ' ' .. table.concat(seen, ','))
  ranks[#ranks + 1] = rank or most
end
if redis.call('HLEN', KEYS[1]) > room then
  local all, lines = redis.call('HGETALL', KEYS[1]), {}
  for at = 1, #all, 2 do
    lines[#lines + 1] = {tonumber(string.match(all[at + 1], '^%d+')), all[at]}
  end
  table.sort(lines, function(a, b) return a[1] < b[1] end)
  for at = 1, math.ceil(#lines / 4) do
    redis.call('HDEL', KEYS[1], lines[at][2])
  end
end
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return ranks
