-- Store or remove one summary of a view, unless the view is gone or a later look at its memories has given another.
--
-- KEYS  1 the tenant's views  2 the view's summaries
-- ARGV  1 the view's id  2 the group's digest  3 when its memories were read, in us  4 the summary ("": remove it)
--       5 most summaries of a view
-- Reply "stored", or why not: "gone", "older", "full".
-- A value in KEYS[2] is the time of reading, a blank, and the summary.

if redis.call("HEXISTS", KEYS[1], ARGV[1]) == 0 then
  return "gone"
end
local known = redis.call("HGET", KEYS[2], ARGV[2])
if known and tonumber(string.match(known, "^%d+")) > tonumber(ARGV[3]) then
  return "older"
end
if ARGV[4] == "" then
  redis.call("HDEL", KEYS[2], ARGV[2])
  return "stored"
end
if not known and redis.call("HLEN", KEYS[2]) >= tonumber(ARGV[5]) then
  return "full"
end
redis.call("HSET", KEYS[2], ARGV[2], ARGV[3] .. " " .. ARGV[4])
return "stored"
