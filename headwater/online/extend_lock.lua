-- The lock KEYS[1] lives ARGV[2] milliseconds longer, or ends (0), if its token is ARGV[1].
-- Returns 1, or 0 when it is another's.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
if ARGV[2] == '0' then
  redis.call('DEL', KEYS[1])
else
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return 1
