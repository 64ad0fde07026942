-- KEYS[i] takes the section ARGV[2i] of one partition unless it holds one with a higher offset.
-- ARGV[1] is the header of a windowed value; ARGV[2i + 1] the time in ms at which nothing that the
-- section holds can be in a window any more ("0": never). Layouts: headwater/codec.py, windows.py.
-- Returns the positions (from 1) of the refused sections: another worker was ahead.
local held = redis.call('MGET', unpack(KEYS))
local header = ARGV[1]
local refused = {}
for i = 1, #KEYS do
  local section, expiry = ARGV[2 * i], ARGV[2 * i + 1]
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
          value = nil
        elseif #old > size + 16 then
          value = string.sub(old, 1, at - 1) .. frame .. string.sub(old, at + 8 + size)
        end
        break
      end
      at = at + 8 + size
    end
    if not found then
      value = old .. frame
    end
    if value and #value > #frame + 8 and expiry ~= '0' then
      -- Other partitions' sections share the key: it lives as long as the longest of them.
      local now = redis.call('PEXPIRETIME', KEYS[i])
      if now == -1 then
        expiry = '0'
      elseif now > tonumber(expiry) then
        expiry = string.format('%.0f', now)
      end
    end
  end
  if value then
    if expiry == '0' then
      redis.call('SET', KEYS[i], value)
    else
      redis.call('SET', KEYS[i], value, 'PXAT', expiry)
    end
  end
end
return refused
