-- Half of the time that the lock KEYS[1] has left, as a time of this server's clock (milliseconds),
-- if its token is ARGV[1]; -1 when it is another's.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return -1
end
local now = redis.call('TIME')
return now[1] * 1000 + math.floor(now[2] / 1000 + redis.call('PTTL', KEYS[1]) / 2)
