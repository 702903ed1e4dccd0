-- Tiles of some products of a shard. ARGV: prefix, first tile, how many from it on, product, … Writes nothing.
-- Returns {{place, …}, {tile (msgpack), …}}: the tiles that exist, each with its place in the table of products by tiles, counted from 0, row by row.
local prefix, first, count = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local WHOLE_HASH = 24 -- tiles a product from which reading its whole hash is cheaper than asking field by field
local places, found = {}, {}
local function add(product, tile, packed)
  if packed and tile >= first and tile < first + count then
    places[#places + 1], found[#found + 1] = (product - 4) * count + tile - first, packed
  end
end
local fields = {}
if count <= WHOLE_HASH then
  for tile = first, first + count - 1 do fields[#fields + 1] = string.format('%.0f', tile) end
end
for product = 4, #ARGV do
  local key = prefix .. 'tiles:' .. ARGV[product]
  if count <= WHOLE_HASH then
    local packed = redis.call('HMGET', key, unpack(fields))
    for i = 1, count do add(product, first + i - 1, packed[i]) end
  else
    local all = redis.call('HGETALL', key)
    for i = 1, #all, 2 do add(product, tonumber(all[i]), all[i + 1]) end
  end
end
return {places, found}
