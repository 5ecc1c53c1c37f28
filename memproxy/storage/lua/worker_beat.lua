-- Tell that a worker lives, and who else does.
--
-- KEYS[1]  the living workers of one stage, by when they were heard last
-- ARGV[1]  worker
-- ARGV[2]  after how much silence a worker is gone, in ms
--
-- Returns {the store's time in ms, {names}}.
local time = redis.call("TIME")
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call("ZADD", KEYS[1], now, ARGV[1])
redis.call("ZREMRANGEBYSCORE", KEYS[1], "-inf", now - ARGV[2])
redis.call("PEXPIRE", KEYS[1], ARGV[2])
return {now, redis.call("ZRANGE", KEYS[1], 0, -1)}
