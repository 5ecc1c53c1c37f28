-- Read a session as a document. Stands behind session_marks.lua.
--
-- KEYS  1 the session's main facts
-- ARGV  1 "1" to read all of it, for a change: then what readers have seen comes with it, and nothing is marked
--       2 how many messages are shown at most (0: no limit)   3 how many tokens of them at most (0: no limit)
--       4 bytes of one index entry                            5 flag of a tool's result in it
--       6 the reader's connection ("" marks nothing)          7 now, in ms   8 a mark's time to live in ms
-- Reply {thread, main facts, facts of the thread, first message shown, index from there, messages from there, data,
-- memories, marks}. The facts are empty where there is no session.
--
-- What is shown begins behind a tool's result and never between a call and its results; one message at least is shown.
-- The work is in proportion to what is shown.

local main = string.sub(KEYS[1], 6)
local thread = redis.call("HGET", KEYS[1], "current") or main
local index, log = "mp:idx:" .. thread, "mp:log:" .. thread
local width, result = tonumber(ARGV[4]), tonumber(ARGV[5])
local STEP = 64

local function entry_at(position, window)
  if position < window.first or (position - window.first + 1) * width > #window.bytes then
    window.first = math.max(0, position - STEP)
    window.bytes = redis.call("GETRANGE", index, window.first * width, (position + STEP) * width - 1)
  end
  local _, tokens, more = struct.unpack("<c16I4I4", window.bytes, (position - window.first) * width + 1)
  return tokens, more % 256
end

local function is_result(position, window)
  local _, flags = entry_at(position, window)
  return math.floor(flags / result) % 2 == 1
end

local function first_shown(length, most, budget)
  local floor = most > 0 and math.max(0, length - most) or 0
  local first, used, window = budget > 0 and length or floor, 0, {first = length, bytes = ""}
  while first > floor do
    local tokens = entry_at(first - 1, window)
    if used + tokens > budget and first < length then break end
    first, used = first - 1, used + tokens
  end
  if first == 0 or not is_result(first, window) then return first end
  local behind = first
  while behind < length and is_result(behind, window) do behind = behind + 1 end
  if behind < length then return behind end
  while first > 0 and is_result(first, window) do first = first - 1 end
  return first
end

local facts = redis.call("HGETALL", "mp:s:" .. thread)
local changes, first = ARGV[1] == "1", 0
if not changes and (ARGV[2] ~= "0" or ARGV[3] ~= "0") then
  first = first_shown(redis.call("LLEN", log), tonumber(ARGV[2]), tonumber(ARGV[3]))
end
if not changes and ARGV[6] ~= "" then
  local version = leave_open(main, ARGV[6], first, ARGV[7], ARGV[8])
  if #facts > 0 and first == 0 then
    redis.call("HSET", "mp:s:" .. thread, "shown", version)
  end
end
return {
  thread,
  thread == main and facts or redis.call("HGETALL", "mp:s:" .. main),
  facts,
  first,
  redis.call("GETRANGE", index, first * width, -1),
  redis.call("LRANGE", log, first, -1),
  redis.call("HGETALL", "mp:data:" .. main),
  redis.call("HGETALL", "mp:mem:" .. main),
  changes and redis.call("HGETALL", "mp:read:" .. main) or {},
}
