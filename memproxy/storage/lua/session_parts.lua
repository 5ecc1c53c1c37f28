-- What the scripts on sessions share; it stands before each of them. `thread` and `main` are the keys of a thread and of
-- its session's main thread without their kind: "{p03}:<digest>". All keys that are derived here have one hash tag.

local THREAD_PARTS = {"s", "log", "idx", "pin", "sys"}
local SESSION_PARTS = {"data", "mem", "card", "threads"}

local function end_together(kinds, name, ttl_ms)
  for _, kind in ipairs(kinds) do
    local key = "mp:" .. kind .. ":" .. name
    if ttl_ms > 0 then redis.call("PEXPIRE", key, ttl_ms) else redis.call("PERSIST", key) end
  end
end

local function push(log, messages, first)
  for from = first, #messages, 1000 do
    redis.call("RPUSH", log, unpack(messages, from, math.min(from + 999, #messages)))
  end
end

-- Index entries with the version that brought them, in the three bytes behind the flags.
local function stamped(entries, width, version)
  local stamp, out = struct.pack("<I3", math.min(version, 16777215)), {}
  for from = 1, #entries, width do
    out[#out + 1] = string.sub(entries, from, from + width - 4) .. stamp
  end
  return table.concat(out)
end

-- Drop the messages behind the first `keep`, with what stands beside them.
local function cut_log(log, index, pins, keep, width)
  if keep == 0 then
    redis.call("DEL", log, index)
  else
    redis.call("LTRIM", log, 0, keep - 1)
    redis.call("SET", index, redis.call("GETRANGE", index, 0, keep * width - 1), "KEEPTTL")
  end
  for _, position in ipairs(redis.call("HKEYS", pins)) do
    if tonumber(position) >= keep then redis.call("HDEL", pins, position) end
  end
end

-- How the session stands in the listing: whose it is, and when it was written to last.
local function list_session(main, whose)
  local now = redis.call("TIME")
  redis.call("HSET", "mp:card:" .. main, "at", now[1] .. "." .. string.format("%06d", now[2]), unpack(whose))
end
