-- Store a new summary view, unless its tenant has as many as it may have.
--
-- KEYS  1 the tenant's views  2 the views that are kept fresh
-- ARGV  1 id  2 the view  3 most views  4 the view's name among those kept fresh ("": it is not)  5 when it is due, in ms
-- Reply 1 when it is stored, 0 when there is no room.

if redis.call("HLEN", KEYS[1]) >= tonumber(ARGV[3]) then
  return 0
end
redis.call("HSET", KEYS[1], ARGV[1], ARGV[2])
if ARGV[4] ~= "" then
  redis.call("ZADD", KEYS[2], ARGV[5], ARGV[4])
end
return 1
