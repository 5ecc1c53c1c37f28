-- Replace a session's rolling summary, if the session is still the one that was read.
--
-- KEYS[1]  the session's facts
-- ARGV  1  how many messages the summary covered when it was read
--       2  how often code had rewritten the log by then
--       3  how many messages the log must have at least
--       4.. name and value of the facts to set
-- Gives 1, or 0 when somebody was faster, or the log was rewritten, or the session is gone: then nothing is written.
local function number(name)
  return tonumber(redis.call('HGET', KEYS[1], name) or '0')
end
if redis.call('EXISTS', KEYS[1]) == 0 or number('length') < tonumber(ARGV[3]) then
  return 0
end
if number('summarised') ~= tonumber(ARGV[1]) or number('rewrites') ~= tonumber(ARGV[2]) then
  return 0
end
redis.call('HSET', KEYS[1], unpack(ARGV, 4))
return 1
