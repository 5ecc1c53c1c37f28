-- Write and delete several memories of one user, all or none of them: where one that has to be as it was read is not,
-- nothing is written. A memory that is there just as it is given is left alone, since each replacement leaves waste in
-- the index that skews scores until it is collected. What was noted of accesses meanwhile is kept.
-- KEYS  the memories' documents, then, if there is a mark, the mark that says that this work is done
-- ARGV[1]  how long the mark stands, in ms; '' without one
-- ARGV[2..]  for each document: what to do, the record as it was read, how many arguments follow, and these:
--   `put`   new or in place of what is there, which keeps its first time: see below
--   `swap`  in place of what was read: see below
--   `patch` change fields of what was read: field, value, field, value, ...; '' for a field that goes
--   `drop`  delete what was read: none
--   first time, last access ('': not yet), accesses, then field, value, field, value, ...
-- Gives how many memories are new; -1 when the mark stood there before, -2 when a memory is not as it was read.
local mark = ARGV[1] ~= '' and KEYS[#KEYS]
local documents = mark and #KEYS - 1 or #KEYS
if mark and redis.call('EXISTS', mark) == 1 then
  return -1
end

local changes, at = {}, 2
for number = 1, documents do
  local what, read, count = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2])
  if what ~= 'put' and redis.call('HGET', KEYS[number], 'record') ~= read then
    return -2
  end
  changes[number] = { what, at + 3, at + 2 + count }
  at = at + 3 + count
end

local function greater(one, other)
  return other and tonumber(other) > tonumber(one) and other or one
end

local function is_same(key, first, last)
  for field = first, last, 2 do
    if redis.call('HGET', key, ARGV[field]) ~= ARGV[field + 1] then
      return false
    end
  end
  return true
end

local new = 0
for number = 1, documents do
  local key = KEYS[number]
  local what, from, to = unpack(changes[number])
  if what == 'drop' then
    redis.call('DEL', key)
  elseif what == 'patch' then
    for field = from, to, 2 do
      local change = ARGV[field + 1] == '' and { 'HDEL', key, ARGV[field] } or { 'HSET', key, ARGV[field], ARGV[field + 1] }
      redis.call(unpack(change))
    end
  else
    local first, accessed, accesses = unpack(redis.call('HMGET', key, 'created_at', 'last_accessed', 'access_count'))
    if not first then
      new = new + 1
    end
    if not first or not is_same(key, from + 3, to) or (what == 'swap' and first ~= ARGV[from]) then
      redis.call('DEL', key)
      local kept = what == 'put' and first or ARGV[from]
      local given = ARGV[from + 1] ~= '' and ARGV[from + 1] or kept
      local noted = accessed ~= first and accessed
      redis.call('HSET', key, 'created_at', kept, 'last_accessed', greater(given, noted),
        'access_count', greater(ARGV[from + 2], accesses), unpack(ARGV, from + 3, to))
    end
  end
end
if mark then
  redis.call('SET', mark, '1', 'PX', ARGV[1])
end
return new
