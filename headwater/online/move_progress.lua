-- Fields of the hash KEYS[1] move from what the caller believes they hold to what they shall hold:
-- ARGV = field, believed, new, ... ('' is absent). Returns field, held for each that held otherwise;
-- those stay as they are.
local differ = {}
for i = 1, #ARGV, 3 do
  local held = redis.call('HGET', KEYS[1], ARGV[i]) or ''
  if held ~= ARGV[i + 1] then
    differ[#differ + 1] = ARGV[i]
    differ[#differ + 1] = held
  elseif ARGV[i + 2] == '' then
    redis.call('HDEL', KEYS[1], ARGV[i])
  elseif held ~= ARGV[i + 2] then
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 2])
  end
end
return differ
