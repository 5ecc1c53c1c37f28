-- Append one turn to a session and queue it, all or nothing.
--
-- KEYS  1 facts  2 log  3 index  4 pins  5 chain pointer  6 queue
--       7 the named session's main facts, or facts again
--       8..11 facts, log, index, pins of the thread to copy from, or 1..4 again
-- ARGV  1  length that the log must have, else nothing is done
--       2  messages of the log that stay (only an unfinished end is ever dropped)
--       3  turn id
--       4  index entries of the new messages          5  bytes of one index entry
--       6  chain pointer's value ("" for none)        7  its time to live in ms (0: kept)
--       8  turn for the queue ("" for none)           9  session's time to live in ms (0: kept)
--       10 messages to copy from the other thread     11 "1" to make this the named session's current thread
--       12 number of facts, then name and value of each; number of pins, then position and value of each;
--          then the new messages
-- Reply {"recorded" | "known" | "conflict", length}

local expected, keep, width = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[5])
local facts, log, index, pins = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local length = redis.call("LLEN", log)

if redis.call("HGET", facts, "turn") == ARGV[3] then
  return {"known", length}
end
if length ~= expected then
  return {"conflict", length}
end

if keep < length then
  if keep == 0 then
    redis.call("DEL", log, index)
  else
    redis.call("LTRIM", log, 0, keep - 1)
    redis.call("SET", index, redis.call("GETRANGE", index, 0, keep * width - 1))
  end
  for position = keep, length - 1 do
    redis.call("HDEL", pins, tostring(position))
  end
end

local function push(messages, first)
  for from = first, #messages, 1000 do
    redis.call("RPUSH", log, unpack(messages, from, math.min(from + 999, #messages)))
  end
end

local copied = tonumber(ARGV[10])
if copied > 0 then
  push(redis.call("LRANGE", KEYS[9], 0, copied - 1), 1)
  redis.call("APPEND", index, redis.call("GETRANGE", KEYS[10], 0, copied * width - 1))
  local old = redis.call("HGETALL", KEYS[11])
  for i = 1, #old, 2 do
    if tonumber(old[i]) < copied then
      redis.call("HSET", pins, old[i], old[i + 1])
    end
  end
end

local at = 12
for _ = 1, tonumber(ARGV[at]) do
  redis.call("HSET", facts, ARGV[at + 1], ARGV[at + 2])
  at = at + 2
end
at = at + 1
for _ = 1, tonumber(ARGV[at]) do
  redis.call("HSETNX", pins, ARGV[at + 1], ARGV[at + 2])
  at = at + 2
end
push(ARGV, at + 1)
if ARGV[4] ~= "" then
  redis.call("APPEND", index, ARGV[4])
end

if ARGV[11] == "1" then
  redis.call("HSET", KEYS[7], "current", string.sub(facts, 6))
end
-- A session's parts end together: those of its main thread, which holds the facts that name the current one, and the
-- instructions, which are seldom written, live on with every turn.
local session_ttl = tonumber(ARGV[9])
if session_ttl > 0 then
  for _, base in ipairs({string.sub(facts, 6), string.sub(KEYS[7], 6)}) do
    for _, kind in ipairs({"s", "log", "idx", "pin", "sys"}) do
      redis.call("PEXPIRE", "mp:" .. kind .. ":" .. base, session_ttl)
    end
  end
end
local data = "mp:data:" .. string.sub(KEYS[7], 6)
if session_ttl > 0 then redis.call("PEXPIRE", data, session_ttl) else redis.call("PERSIST", data) end
if ARGV[6] ~= "" then
  redis.call("SET", KEYS[5], ARGV[6])
  if tonumber(ARGV[7]) > 0 then redis.call("PEXPIRE", KEYS[5], ARGV[7]) end
end
if ARGV[8] ~= "" then
  redis.call("XADD", KEYS[6], "*", "turn", ARGV[8])
end
return {"recorded", redis.call("LLEN", log)}
