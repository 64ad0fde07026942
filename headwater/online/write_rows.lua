-- Newest wins: KEYS[i] takes the packed row ARGV[i] unless the row it holds is newer.
-- Order: (event time, created time, partition, offset); a row without one of these is older there.
-- Layout: headwater/codec.py. Returns how many rows were taken.
local function version(row)
  local flags = string.byte(row, 1)
  local lo, hi, at = struct.unpack('<I4i4', row, 5)
  local v = {hi, lo, -2147483648, 0, -1, -1, 0}
  if flags % 4 >= 2 then
    v[4], v[3], at = struct.unpack('<I4i4', row, at)
  end
  if flags % 8 >= 4 then
    v[5], v[7], v[6] = struct.unpack('<i4I4i4', row, at)
  end
  return v
end

local held = redis.call('MGET', unpack(KEYS))
local taken, fresh = {}, {}
local n = 0
for i = 1, #KEYS do
  local old = fresh[KEYS[i]] or held[i]
  local newer = true
  if old and #old >= 12 then
    local a, b = version(old), version(ARGV[i])
    for j = 1, 7 do
      if a[j] ~= b[j] then
        newer = b[j] > a[j]
        break
      end
    end
  end
  if newer then
    n = n + 1
    fresh[KEYS[i]] = ARGV[i]
    taken[2 * n - 1], taken[2 * n] = KEYS[i], ARGV[i]
  end
end
if n > 0 then
  redis.call('MSET', unpack(taken))
end
return n
