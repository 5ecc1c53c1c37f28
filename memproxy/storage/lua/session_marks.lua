-- What readers of a session have seen. Stands before the scripts that show or change a session as a document.
--
-- A mark is one field of the hash `mp:read:<main>`, its value JSON. Its name says what kind it is:
--   open <connection> <version> <hidden> <look>   a reader was shown this, and may write it back; `count` of them
--   own <connection>                              what the writer on this connection knows, by reading and writing
--   shown <version> <look>                        what the answer to a writer showed; counts only where it is sent back
-- Beside them stands, under "gone", by which change messages were removed lately: JSON, id -> version.

local MOST_MARKS = 64

local function short_digest(text)
  return string.sub(redis.sha1hex(text), 1, 12)
end

-- What there is to see of a session now, of which the first `hidden` messages are not shown; version 0 where there is
-- none. The second value tells looks apart between which only the data or the summary changed.
local function sight(main, thread, hidden, now)
  local fact = redis.call("HMGET", "mp:s:" .. thread, "version", "updated_at", "summary", "length")
  local is_there = fact[4] ~= false
  local data, digests = is_there and redis.call("HGETALL", "mp:data:" .. main) or {}, {}
  for i = 1, #data, 2 do
    digests[data[i]] = short_digest(data[i + 1])
  end
  local mark = {
    thread = thread,
    version = tonumber(is_there and fact[1] or 0),
    state = is_there and fact[2] or "",
    summary = short_digest(is_there and fact[3] or ""),
    shown = tonumber(fact[4] or 0) - hidden,
    hidden = hidden,
    data = digests,
    at = tonumber(now),
  }
  return mark, short_digest(table.concat(data, " ") .. mark.summary .. thread)
end

local function leave_mark(main, field, mark, ttl_ms)
  local read = "mp:read:" .. main
  redis.call("HSET", read, field, mark)
  if redis.call("HLEN", read) > MOST_MARKS then
    local marks, oldest, when = redis.call("HGETALL", read), nil, math.huge
    for i = 1, #marks, 2 do
      local at = marks[i] ~= "gone" and cjson.decode(marks[i + 1]).at or math.huge
      if at < when then oldest, when = marks[i], at end
    end
    redis.call("HDEL", read, oldest)
  end
  redis.call("PEXPIRE", read, ttl_ms)
end

-- One reader more who may write back what it was shown.
local function leave_open(main, connection, hidden, now, ttl_ms)
  local thread = redis.call("HGET", "mp:s:" .. main, "current") or main
  local mark, look = sight(main, thread, hidden, now)
  if hidden > 0 then mark.begins = cjson.decode(redis.call("LINDEX", "mp:log:" .. thread, hidden)).id end
  local field = "open " .. table.concat({connection, mark.version, hidden, look}, " ")
  local before = redis.call("HGET", "mp:read:" .. main, field)
  mark.count = before and cjson.decode(before).count + 1 or 1
  leave_mark(main, field, cjson.encode(mark), ttl_ms)
  redis.call("HDEL", "mp:read:" .. main, "own " .. connection)
  return mark.version
end

-- One reader less.
local function use_mark(main, field)
  local read = "mp:read:" .. main
  local raw = redis.call("HGET", read, field)
  if not raw then return end
  local mark = cjson.decode(raw)
  if (mark.count or 1) > 1 then
    mark.count = mark.count - 1
    redis.call("HSET", read, field, cjson.encode(mark))
  else
    redis.call("HDEL", read, field)
  end
end
