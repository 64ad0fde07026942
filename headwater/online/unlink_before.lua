-- Deletes KEYS[1] unless this server's clock is past ARGV[1] (milliseconds): then -1. Returns how
-- many there were. A cluster's lock lies on another node: it lends its holder this much time.
local now = redis.call('TIME')
if now[1] * 1000 + now[2] / 1000 > tonumber(ARGV[1]) then
  return -1
end
return redis.call('UNLINK', KEYS[1])
