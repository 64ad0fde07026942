-- Newest wins: KEYS[i] takes the packed row ARGV[i] unless the row it holds is newer.
-- Order: (event time, created time, partition, offset); a row without one of these is older there.
-- Layout: headwater/codec.py. Returns how many rows were taken.
local unpack_at = struct.unpack

-- Created time, partition and offset of a row, where it has them.
local function rest(row)
  local flags, created, partition, offset, at = string.byte(row, 1), -2 ^ 63, -1, -1, 13
  if flags % 4 >= 2 then
    created, at = unpack_at('<i8', row, at)
  end
  if flags % 8 >= 4 then
    partition, offset = unpack_at('<i4i8', row, at)
  end
  return created, partition, offset
end

-- Whether a row goes before one of the same event time.
local function goes_before(row, old)
  local a, b, c = rest(old)
  local x, y, z = rest(row)
  if a ~= x then return x > a end
  if b ~= y then return y > b end
  return z >= c
end

local held = redis.call('MGET', unpack(KEYS))
local taken, fresh = {}, {}
local n = 0
for i = 1, #KEYS do
  local key, row = KEYS[i], ARGV[i]
  local old = fresh[key] or held[i]
  local newer = true
  if old and #old >= 12 then
    local event, before = unpack_at('<i8', row, 5), unpack_at('<i8', old, 5)
    newer = event > before or event == before and goes_before(row, old)
  end
  if newer then
    n = n + 1
    fresh[key] = row
    taken[2 * n - 1], taken[2 * n] = key, row
  end
end
if n > 0 then
  redis.call('MSET', unpack(taken))
end
return n
