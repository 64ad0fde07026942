-- KEYS[i] takes the section ARGV[i + 1] of one partition unless it holds one with a higher offset.
-- ARGV[1] is the header of a windowed value. Layouts: headwater/codec.py, headwater/windows.py.
-- Returns the positions (from 1) of the refused sections: another worker was ahead.
local held = redis.call('MGET', unpack(KEYS))
local header = ARGV[1]
local out, refused = {}, {}
for i = 1, #KEYS do
  local section = ARGV[i + 1]
  local frame = struct.pack('<I4I4', #section, 0) .. section
  local old = held[i]
  local value = header .. frame
  if old and string.sub(old, 1, 8) == header then
    local source = string.sub(section, 9, 16)
    local at, found = 9, false
    while at <= #old do
      local size = struct.unpack('<I4', old, at)
      if string.sub(old, at + 16, at + 23) == source then
        found = true
        local alo, ahi = struct.unpack('<I4i4', old, at + 8)
        local blo, bhi = struct.unpack('<I4i4', section, 1)
        if ahi > bhi or (ahi == bhi and alo > blo) then
          refused[#refused + 1] = i
          value = old
        else
          value = string.sub(old, 1, at - 1) .. frame .. string.sub(old, at + 8 + size)
        end
        break
      end
      at = at + 8 + size
    end
    if not found then
      value = old .. frame
    end
  end
  out[2 * i - 1], out[2 * i] = KEYS[i], value
end
redis.call('MSET', unpack(out))
return refused
