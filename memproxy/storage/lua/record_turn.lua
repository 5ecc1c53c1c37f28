-- Append one turn to a session and queue it, all or nothing. Stands behind session_parts.lua.
--
-- KEYS  1 facts  2 log  3 index  4 pins  5 chain pointer  6 queue
--       7 the named session's main facts, or facts again
--       8..11 facts, log, index, pins of the thread to copy from, or 1..4 again
--       12.. further pointers, which stand for the whole log after this turn
-- ARGV  1  length that the log must have, else nothing is done
--       2  messages of the log that stay (only an unfinished end is ever dropped)
--       3  turn id
--       4  index entries of the new messages          5  bytes of one index entry
--       6  chain pointer's value ("" for none)        7  its time to live in ms (0: kept)
--       8  turn for the queue ("" for none)           9  session's time to live in ms (0: kept), unless it has its own
--       10 messages to copy from the other thread     11 "1" to make this the named session's current thread
--       12 how often the log (of the other thread, if one is copied) must have been rewritten, else nothing is done
--       13 the instructions that the session came with ("" when they are known)
--       14 what the further pointers hold
--       15 number of names and values by which the session is listed, then these; number of facts, then name and value
--          of each; number of counts, then name and amount of each, added to those of the named session; number of
--          pins, then position and value of each; then the new messages
-- Reply {"recorded" | "known" | "conflict", length}

local expected, keep, width = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[5])
local facts, log, index, pins = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local thread, main = string.sub(facts, 6), string.sub(KEYS[7], 6)
local length = redis.call("LLEN", log)

if redis.call("HGET", facts, "turn") == ARGV[3] then
  return {"known", length}
end
if length ~= expected or (redis.call("HGET", KEYS[8], "rewrites") or "0") ~= ARGV[12] then
  return {"conflict", length}
end
local version = (redis.call("HGET", KEYS[8], "version") or 0) + 1

if keep < length then
  cut_log(log, index, pins, keep, width)
end

local copied = tonumber(ARGV[10])
if copied > 0 then
  push(log, redis.call("LRANGE", KEYS[9], 0, copied - 1), 1)
  redis.call("APPEND", index, redis.call("GETRANGE", KEYS[10], 0, copied * width - 1))
  local old = redis.call("HGETALL", KEYS[11])
  for i = 1, #old, 2 do
    if tonumber(old[i]) < copied then
      redis.call("HSET", pins, old[i], old[i + 1])
    end
  end
end
if thread ~= main then
  redis.call("SADD", "mp:threads:" .. main, thread)
end
if KEYS[8] ~= facts then
  local strategies = redis.call("HGET", KEYS[8], "strategies")
  if strategies then redis.call("HSET", facts, "strategies", strategies) end
end

local at = 15
local whose = {unpack(ARGV, at + 1, at + tonumber(ARGV[at]))}
at = at + #whose + 1
local told = 2 * tonumber(ARGV[at])
redis.call("HSET", facts, "version", version, unpack(ARGV, at + 1, at + told))
at = at + told + 1
local counts = tonumber(ARGV[at])
for _ = 1, counts do
  redis.call("HINCRBY", KEYS[7], ARGV[at + 1], ARGV[at + 2])
  at = at + 2
end
at = at + 1
for _ = 1, tonumber(ARGV[at]) do
  redis.call("HSETNX", pins, ARGV[at + 1], ARGV[at + 2])
  at = at + 2
end
push(log, ARGV, at + 1)
if ARGV[4] ~= "" then
  redis.call("APPEND", index, stamped(ARGV[4], width, version))
end

if ARGV[11] == "1" then
  redis.call("HSET", KEYS[7], "current", thread)
end
if ARGV[13] ~= "" then
  redis.call("SET", "mp:sys:" .. thread, ARGV[13])
end
list_session(main, whose)
-- A session's parts end together: those of its main thread, which holds the facts that name the current one, and the
-- instructions, which are seldom written, live on with every turn.
local session_ttl = tonumber(redis.call("HGET", KEYS[7], "ttl_ms") or ARGV[9])
if session_ttl > 0 then
  end_together(THREAD_PARTS, thread, session_ttl)
  if thread ~= main then end_together(THREAD_PARTS, main, session_ttl) end
  end_together(SESSION_PARTS, main, session_ttl)
else
  redis.call("PERSIST", "mp:data:" .. main)  -- may have been noted before the session was there
end
local function point(pointer, value)
  redis.call("SET", pointer, value)
  if tonumber(ARGV[7]) > 0 then redis.call("PEXPIRE", pointer, ARGV[7]) end
end
if ARGV[6] ~= "" then point(KEYS[5], ARGV[6]) end
for i = 12, #KEYS do point(KEYS[i], ARGV[14]) end
if ARGV[8] ~= "" then
  redis.call("XADD", KEYS[6], "*", "turn", ARGV[8])
end
return {"recorded", redis.call("LLEN", log)}
