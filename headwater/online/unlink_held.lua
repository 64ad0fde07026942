-- Deletes KEYS[2..] while the lock KEYS[1] is held under the token ARGV[1]; returns how many there
-- were, -1 when the lock is another's. A holder that slept past its lock deletes nothing.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return -1
end
local keys = {}
for i = 2, #KEYS do
  keys[i - 1] = KEYS[i]
end
if #keys == 0 then
  return 0
end
return redis.call('UNLINK', unpack(keys))
