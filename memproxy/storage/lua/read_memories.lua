-- Read several memories of one user at once; cheaper for the client than as many HMGET.
-- KEYS  the memories' documents
-- ARGV  field, field, ...
-- Gives for each key the values of the fields, nil where there are none.
local found = {}
for at, key in ipairs(KEYS) do
  found[at] = redis.call('HMGET', key, unpack(ARGV))
end
return found
