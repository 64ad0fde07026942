-- Fields of the hash KEYS[1], a witness of a cluster's progress, move forward: ARGV[1] is the epoch
-- that it must have, then field, believed, new, ... ('' is absent). A field is created, or goes up
-- from what is believed or more; returns those that hold less: what this node held is lost.
local lost = {}
local same = (redis.call('HGET', KEYS[1], 'epoch') or '') == ARGV[1]
for i = 2, #ARGV, 3 do
  local field, believed, new = ARGV[i], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2])
  local held = tonumber(redis.call('HGET', KEYS[1], field) or '')
  if not same or believed and (not held or held < believed) then
    lost[#lost + 1] = field
  elseif not believed or new > held then
    redis.call('HSET', KEYS[1], field, ARGV[i + 2])
  end
end
return lost
