-- Fields of the hash KEYS[1], a witness of a cluster's progress, go no higher than ARGV = field, at
-- most, ... ('' is absent).
for i = 1, #ARGV, 2 do
  local most = tonumber(ARGV[i + 1])
  local held = tonumber(redis.call('HGET', KEYS[1], ARGV[i]) or '')
  if not most then
    redis.call('HDEL', KEYS[1], ARGV[i])
  elseif held and held > most then
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
  end
end
return 0
