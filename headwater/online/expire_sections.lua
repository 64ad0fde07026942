-- Deletes KEYS[i], a windowed value, where every section's newest tile begins before ARGV[i] (us)
-- and no event waits in it. Layouts: headwater/codec.py, headwater/windows.py. Returns how many.
local unpack_at = struct.unpack
local held = redis.call('MGET', unpack(KEYS))
local gone = {}
for i = 1, #KEYS do
  local value, cut = held[i], tonumber(ARGV[i])
  local old, at = value and #value >= 32, 9
  while old and at <= #value do
    local size = unpack_at('<i8', value, at)
    local tiles, heads = unpack_at('<i8i8', value, at + 32)
    if heads > 0 or tiles > 0 and unpack_at('<i8', value, at + 40 + 8 * tiles) >= cut then
      old = false
    end
    at = at + 8 + size
  end
  if old then
    gone[#gone + 1] = KEYS[i]
  end
end
if #gone > 0 then
  redis.call('UNLINK', unpack(gone))
end
return #gone
