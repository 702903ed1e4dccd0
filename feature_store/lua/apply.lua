-- Count one source's next records into one shard: all of it, or nothing.
-- KEYS[1] any key of the shard; ARGV[1] the shard's key prefix; ARGV[2] the call, msgpack (feature_store/store.py, ApplyCall.pack).
-- Returns {'applied', sequence, cells that came too late for the model} | {'seen', event hashes…} | {'ahead', next offset, watermark or nil, sequence} | {'rolled_back', next offset or -1}.
-- Lua does not roll back: everything is read and checked first, and only then written.
local prefix, call = ARGV[1], cmsgpack.unpack(ARGV[2])
local source, expected, next_offset, watermark = call.source, call.expected, call.next_offset, call.watermark
local offsets, watermarks, closed_key = prefix .. 'offsets', prefix .. 'watermarks', prefix .. 'closed'

-- read and check
local stored = tonumber(redis.call('HGET', offsets, source) or -1)
local known_watermark = redis.call('HGET', watermarks, source)
if stored > expected then return {'ahead', stored, known_watermark, redis.call('HGET', offsets, 'sum')} end
if stored < expected then return {'rolled_back', stored} end

local seen_from = tonumber(redis.call('HGET', closed_key, 'seen_from') or -1)
local seen = {}
for _, group in ipairs(call.hashes) do -- {hour, set, hash, hash, …}
  if group[1] >= seen_from then
    local key = prefix .. 'seen:' .. group[1] .. ':' .. group[2]
    local known = redis.call('SMISMEMBER', key, unpack(group, 3))
    for i = 1, #known do
      if known[i] == 1 then seen[#seen + 1] = group[i + 2] end
    end
  end
end
if #seen > 0 then return {'seen', unpack(seen)} end

local products, cell_product, cell_tile = call.products, call.cell_product, call.cell_tile
local closing = tonumber(redis.call('HGET', closed_key, 'closing') or -math.huge)
local per_step = call.tiles_per_step
local rolled = {} -- product → step its state has consumed; asked only of products with cells in a step that is being closed, or closed
local function rolled_through(product)
  if rolled[product] == nil then
    local header = redis.call('GETRANGE', prefix .. 'features:' .. product, 0, 7)
    rolled[product] = #header == 8 and struct.unpack('<i8', header) or -math.huge
  end
  return rolled[product]
end

local columns, values = call.columns, call.values -- which measures occur; their deltas, cell after cell
local width, corrected, first_step = #columns, 0, math.huge
local function add(key, field, cell)
  local old, sums = redis.call('HGET', key, field), nil
  if old then sums = cmsgpack.unpack(old) else sums = {0, 0, 0, 0, 0, 0, 0, 0, 0} end
  for i = 1, width do
    local column = columns[i]
    sums[column] = sums[column] + values[(cell - 1) * width + i]
  end
  redis.call('HSET', key, field, cmsgpack.pack(sums))
end

-- write
for cell = 1, #cell_tile do
  local product, tile = products[cell_product[cell]], cell_tile[cell]
  local step = math.floor(tile / per_step)
  if step < first_step then first_step = step end
  if step > closing then
    add(prefix .. 'tiles:' .. product, tile, cell)
  elseif rolled_through(product) < step then -- the model may have read the tiles of this step, or may not
    corrected = corrected + 1
    add(prefix .. 'tiles:' .. product, tile, cell)
  else
    corrected = corrected + 1
    if step > rolled_through(product) - call.keep_tiles then add(prefix .. 'tiles:' .. product, tile, cell) end
    if step > rolled_through(product) - call.keep_steps then add(prefix .. 'steps:' .. product, step, cell) end
  end
end
for _, group in ipairs(call.hashes) do
  if group[1] >= seen_from then redis.call('SADD', prefix .. 'seen:' .. group[1] .. ':' .. group[2], unpack(group, 3)) end
end

redis.call('HSET', offsets, source, next_offset)
local sequence = redis.call('HINCRBY', offsets, 'sum', next_offset - math.max(stored, 0))
if watermark and (not known_watermark or tonumber(known_watermark) < watermark) then redis.call('HSET', watermarks, source, watermark) end
if #products == 0 then return {'applied', sequence, 0} end

if closing == -math.huge then -- nothing is closed yet: closing starts at the first step that holds anything
  local start = redis.call('HGET', closed_key, 'step')
  if not start or tonumber(start) > first_step - 1 then
    redis.call('HSET', closed_key, 'step', first_step - 1, 'seen_from', math.floor(call.first_hour) - call.seen_hours)
  end
end
for from = 1, #products, 1000 do -- Lua's stack holds a few thousand arguments
  local to = math.min(from + 999, #products)
  local live, dirty, since = {}, {}, {}
  local waiting = redis.call('HMGET', prefix .. 'dirty_since', unpack(products, from, to))
  for i = from, to do
    live[#live + 1], live[#live + 2] = call.newest_event[i], products[i]
    dirty[#dirty + 1], dirty[#dirty + 2] = sequence, products[i]
    if not waiting[i - from + 1] then since[#since + 1], since[#since + 2] = products[i], call.oldest_sent[i] end
  end
  redis.call('ZADD', prefix .. 'live', 'GT', unpack(live))
  redis.call('ZADD', prefix .. 'dirty', unpack(dirty))
  if #since > 0 then redis.call('HSET', prefix .. 'dirty_since', unpack(since)) end
end
return {'applied', sequence, corrected}
