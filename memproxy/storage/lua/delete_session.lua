-- Remove all keys of a session: of every thread, and what its threads share.
--
-- KEYS  1 the session's main facts
-- Reply how many keys there were.

local main = string.sub(KEYS[1], 6)
local threads = redis.call("SMEMBERS", "mp:threads:" .. main)
threads[#threads + 1] = redis.call("HGET", KEYS[1], "current") or main
threads[#threads + 1] = main
local gone = 0
for _, thread in ipairs(threads) do
  for _, kind in ipairs({"s", "log", "idx", "pin", "sys", "tool"}) do
    gone = gone + redis.call("UNLINK", "mp:" .. kind .. ":" .. thread)
  end
end
for _, kind in ipairs({"data", "mem", "card", "read", "threads"}) do
  gone = gone + redis.call("UNLINK", "mp:" .. kind .. ":" .. main)
end
return gone
