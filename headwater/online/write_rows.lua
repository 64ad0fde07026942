-- Newest wins: KEYS[i] takes the packed row ARGV[i] unless the row it holds is newer.
-- Order: (event time, created time, partition, offset); a row without one of these is older there.
-- Layout: headwater/codec.py. Returns how many rows were taken.
local unpack_from = struct.unpack

-- Created time, partition and offset of a row, where it has them.
local function rest(row)
  local flags = string.byte(row, 1)
  local chi, clo, partition, ohi, olo, at = -2147483648, 0, -1, -1, 0, 13
  if flags % 4 >= 2 then
    clo, chi, at = unpack_from('<I4i4', row, at)
  end
  if flags % 8 >= 4 then
    partition, olo, ohi = unpack_from('<i4I4i4', row, at)
  end
  return chi, clo, partition, ohi, olo
end

local function newer(row, old)
  local alo, ahi = unpack_from('<I4i4', old, 5)
  local blo, bhi = unpack_from('<I4i4', row, 5)
  if ahi ~= bhi then return bhi > ahi end
  if alo ~= blo then return blo > alo end
  local a, b = {rest(old)}, {rest(row)}
  for j = 1, 5 do
    if a[j] ~= b[j] then return b[j] > a[j] end
  end
  return true
end

local held = redis.call('MGET', unpack(KEYS))
local taken, fresh = {}, {}
local n = 0
for i = 1, #KEYS do
  local key = KEYS[i]
  local old = fresh[key] or held[i]
  if not old or #old < 12 or newer(ARGV[i], old) then
    n = n + 1
    fresh[key] = ARGV[i]
    taken[2 * n - 1], taken[2 * n] = key, ARGV[i]
  end
end
if n > 0 then
  redis.call('MSET', unpack(taken))
end
return n
