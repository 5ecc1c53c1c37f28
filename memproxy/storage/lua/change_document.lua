-- Change a session that was read as a document, all or nothing. Stands behind session_parts.lua and session_marks.lua.
--
-- KEYS  1 the session's main facts  2 facts of the thread  3 log  4 index  5 pins  6 queue
-- ARGV  in this order; lists have their length before them:
--       the thread that must be current; the version that it must have; when the session must have been created ("" if
--       it must not be there)
--       messages of the log that stay; bytes of one index entry; index entries of those behind them; these messages
--       facts of the thread (name, value, ...); main facts; names of main facts that go
--       names of data that go; data (name, JSON, ...); fields of memories that go; memories (field, value, ...)
--       time to live in ms (0: kept); "1" if it is another than before
--       the turn for the queue ("" for none); by what the session is listed
--       the writer's connection ("" marks nothing); now, in ms; a mark's time to live in ms; the mark that is used up
--       ("" for none); the mark that is set aside, and for whose connection ("" for none); what the writer knows (JSON);
--       the messages that were removed lately (JSON; "" for none)
-- Reply "written" | "conflict"

local at = 0
local function take()
  at = at + 1
  return ARGV[at]
end
local function take_list()
  local found = {}
  for i = 1, tonumber(take()) do found[i] = take() end
  return found
end
local function set_all(key, values)
  for i = 1, #values, 2 do redis.call("HSET", key, values[i], values[i + 1]) end
end
local function remove_all(key, names)
  for _, name in ipairs(names) do redis.call("HDEL", key, name) end
end

local main, thread = string.sub(KEYS[1], 6), string.sub(KEYS[2], 6)
local log, index, pins = KEYS[3], KEYS[4], KEYS[5]
local current, version = redis.call("HGET", KEYS[1], "current") or main, redis.call("HGET", KEYS[2], "version") or "0"
if current ~= take() or version ~= take() or (redis.call("HGET", KEYS[1], "created_at") or "") ~= take() then
  return "conflict"
end
version = tonumber(version) + 1

local keep, width = tonumber(take()), tonumber(take())
local entries, messages = take(), take_list()
if keep < redis.call("LLEN", log) then
  cut_log(log, index, pins, keep, width)
  redis.call("HINCRBY", KEYS[2], "rewrites", 1)
end
push(log, messages, 1)
if entries ~= "" then redis.call("APPEND", index, entries) end

set_all(KEYS[2], take_list())
redis.call("HSET", KEYS[2], "version", version)
set_all(KEYS[1], take_list())
remove_all(KEYS[1], take_list())
remove_all("mp:data:" .. main, take_list())
set_all("mp:data:" .. main, take_list())
remove_all("mp:mem:" .. main, take_list())
set_all("mp:mem:" .. main, take_list())

local ttl_ms, is_other, queued = tonumber(take()), take() == "1", take()
list_session(main, take_list())
local names = is_other and redis.call("SMEMBERS", "mp:threads:" .. main) or {}
names[#names + 1] = thread
names[#names + 1] = main
for _, name in ipairs(names) do end_together(THREAD_PARTS, name, ttl_ms) end
end_together(SESSION_PARTS, main, ttl_ms)
if queued ~= "" then redis.call("XADD", KEYS[6], "*", "turn", queued) end

local connection, now, mark_ttl = take(), take(), take()
local used, aside, owner, own, gone = take(), take(), take(), take(), take()
if connection ~= "" then
  local read = "mp:read:" .. main
  if aside ~= "" then
    local raw = redis.call("HGET", read, aside)
    if raw then
      local mark = cjson.decode(raw)
      mark.count = 1
      redis.call("HSET", read, "own " .. owner, cjson.encode(mark))
    end
  end
  if used ~= "" then use_mark(main, used) end
  if gone ~= "" then redis.call("HSET", read, "gone", gone) end
  leave_mark(main, "own " .. connection, own, mark_ttl)
  local mark, look = sight(main, thread, 0, now)
  leave_mark(main, "shown " .. mark.version .. " " .. look, cjson.encode(mark), mark_ttl)
end
return "written"
