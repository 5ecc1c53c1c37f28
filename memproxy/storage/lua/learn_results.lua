-- Carry out operations on the kept tool results of one or more owners, in order.
--
-- KEYS  the owners' hashes: a field a result, and `index`, a list of {key, bytes, end in ms, groups}, oldest first
-- ARGV  1  now in ms      2  most results an owner may have      3  most bytes
--       4.. operations:  "keep", owner, key, end in ms, groups, value
--                        "drop", owner, key
--                        "clear", groups: forget what is in one of them or in none; "*": forget all
--       groups are digests with blanks between them

local now, max_results, max_bytes = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])

local function read_index(owner)
  local packed = redis.call("HGET", owner, "index")
  return packed and cmsgpack.unpack(packed) or {}
end

local function without(owner, entries, falls)
  local kept = {}
  for _, entry in ipairs(entries) do
    if falls(entry) then
      redis.call("HDEL", owner, entry[1])
    else
      kept[#kept + 1] = entry
    end
  end
  return kept
end

local function is_in(groups, cleared)
  if cleared == "*" or groups == "" then
    return true
  end
  for group in string.gmatch(groups, "%S+") do
    if string.find(cleared, group, 1, true) then
      return true
    end
  end
  return false
end

local function within_bounds(owner, entries)
  local bytes, first = 0, 1
  for _, entry in ipairs(entries) do
    bytes = bytes + entry[2]
  end
  while first <= #entries and (#entries - first + 1 > max_results or bytes > max_bytes) do
    bytes = bytes - entries[first][2]
    first = first + 1
  end
  local dropped = 0
  return without(owner, entries, function()
    dropped = dropped + 1
    return dropped < first
  end)
end

local function store(owner, entries)
  if #entries == 0 then
    redis.call("DEL", owner)
    return
  end
  local ends = 0
  for _, entry in ipairs(entries) do
    ends = math.max(ends, entry[3])
  end
  redis.call("HSET", owner, "index", cmsgpack.pack(entries))
  redis.call("PEXPIRE", owner, math.max(1, ends - now))
end

for _, owner in ipairs(KEYS) do
  local entries = without(owner, read_index(owner), function(entry) return entry[3] <= now end)
  local at = 4
  while at <= #ARGV do
    local what, whose, key = ARGV[at], ARGV[at + 1], ARGV[at + 2]
    if what == "clear" then
      entries = without(owner, entries, function(entry) return is_in(entry[4], whose) end)
      at = at + 2
    else
      if whose == owner then
        entries = without(owner, entries, function(entry) return entry[1] == key end)
      end
      if what == "keep" then
        local ends, groups, value = tonumber(ARGV[at + 3]), ARGV[at + 4], ARGV[at + 5]
        if whose == owner and ends > now and #key + #value <= max_bytes then
          redis.call("HSET", owner, key, value)
          entries[#entries + 1] = {key, #key + #value, ends, groups}
        end
        at = at + 6
      else
        at = at + 3
      end
    end
  end
  store(owner, within_bounds(owner, entries))
end
