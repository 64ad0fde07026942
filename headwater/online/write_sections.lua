-- KEYS[i] takes ARGV[i], a value that holds one partition's section, unless it holds one of that
-- partition with a higher offset. Other partitions' sections stay. Layout: headwater/codec.py:
-- header 8, then for each section its size 8, and the section: offset 8, source 8, ...
-- Returns the positions (from 1) of the refused sections: another worker was ahead.
local unpack_at = struct.unpack
local held = redis.call('MGET', unpack(KEYS))
local taken, refused, n = {}, {}, 0

-- The old value with the new section in its place; nil where the one it holds is ahead.
local function merged(old, value, offset, source)
  local at = 9
  while at <= #old do
    local size, o, s = unpack_at('<i8i8i8', old, at)
    if s == source then
      if o > offset then return nil end
      return string.sub(old, 1, at - 1) .. string.sub(value, 9) .. string.sub(old, at + 8 + size)
    end
    at = at + 8 + size
  end
  return old .. string.sub(value, 9)
end

for i = 1, #KEYS do
  local value, old = ARGV[i], held[i]
  if old and #old >= 32 then
    local header, _, offset, source = unpack_at('<i8i8i8i8', value)
    local h, size, o, s = unpack_at('<i8i8i8i8', old)
    if h == header then
      if s ~= source or #old ~= size + 16 then
        value = merged(old, value, offset, source)
      elseif o > offset then
        value = nil
      end
    end
  end
  if value then
    n = n + 1
    taken[2 * n - 1], taken[2 * n] = KEYS[i], value
  else
    refused[#refused + 1] = i
  end
end
if n > 0 then
  redis.call('MSET', unpack(taken))
end
return refused
