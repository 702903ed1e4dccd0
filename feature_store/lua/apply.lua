-- Count the next records of some sources into one shard: all of it, or nothing.
-- KEYS[1] any key of the shard; ARGV[1] the shard's key prefix; ARGV[2] what all calls share, msgpack (feature_store/store.py); ARGV[3] the call, msgpack
-- (feature_store/calls.py, ApplyCall.pack).
-- Returns {'applied', sequence, cells that came too late for the model} | {'seen', event hashes…} | {'ahead', next offset of each source (-1: none)…} |
-- {'rolled_back', which source (counted from 0), its next offset or -1}.
-- Lua does not roll back: everything is read and checked first, and only then written.
local prefix, shared = ARGV[1], cmsgpack.unpack(ARGV[2])
local per_step, keep_tiles, keep_steps = shared.tiles_per_step, shared.keep_tiles, shared.keep_steps
local offsets, watermarks, closed_key = prefix .. 'offsets', prefix .. 'watermarks', prefix .. 'closed'
local zeros = {} -- sums of a cell that was never counted: one per measure
for i = 1, shared.measures do zeros[i] = 0 end
local texts = {} -- a number costs Redis more to write down than all else that is done with it
local function text(number)
  local known = texts[number]
  if not known then
    known = string.format('%.0f', number)
    texts[number] = known
  end
  return known
end

local call = cmsgpack.unpack(ARGV[3])
local sources, expected, next_offset, watermark = call.sources, call.expected, call.next_offset, call.watermark

-- read and check
local stored, ahead = redis.call('HMGET', offsets, unpack(sources)), false
for i = 1, #sources do
  stored[i] = tonumber(stored[i] or -1)
  if stored[i] < expected[i] then return {'rolled_back', i - 1, stored[i]} end
  ahead = ahead or stored[i] > expected[i]
end
if ahead then return {'ahead', unpack(stored)} end

local seen_from = tonumber(redis.call('HGET', closed_key, 'seen_from') or -1)
local seen = {}
for _, group in ipairs(call.hashes) do -- {hour, set, hash, hash, …}, the hashes as text
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
local rolled = {} -- product → step its state has consumed; asked only of products with cells in a step that is being closed, or closed
local function rolled_through(product)
  if rolled[product] == nil then
    local header = redis.call('GETRANGE', prefix .. 'state:' .. product, 0, 7)
    rolled[product] = #header == 8 and struct.unpack('<i8', header) or -math.huge
  end
  return rolled[product]
end

local columns, values = call.columns, call.values -- which measures occur; their deltas, cell after cell
local width, corrected, first_step = #columns, 0, math.huge
local function add(key, fields, cells) -- distinct fields of one key, each with its cell
  local known, written = redis.call('HMGET', key, unpack(fields)), {}
  for i = 1, #fields do
    local sums = known[i] and cmsgpack.unpack(known[i]) or {unpack(zeros)}
    local before = (cells[i] - 1) * width
    for c = 1, width do
      local column = columns[c]
      sums[column] = sums[column] + values[before + c]
    end
    written[2 * i - 1], written[2 * i] = fields[i], cmsgpack.pack(sums)
  end
  redis.call('HSET', key, unpack(written))
end

-- The sums of a product's newest step and of the one before stand ready, so that a nowcast need not read tiles: {newest step, its sums, those before}.
-- Not while much is counted at once: history is caught up with, and nobody forecasts it. A product without them gets them from its tiles.
local live = #cell_tile <= shared.live_cells
local function running_of(name, last_step)
  local packed = redis.call('GET', prefix .. 'running:' .. name)
  if packed then return cmsgpack.unpack(packed) end
  local heard = redis.call('ZSCORE', prefix .. 'live', name)
  local newest = math.max(heard and math.floor(tonumber(heard) / shared.step_ms) or -1, last_step)
  local recent, fields = {newest, {unpack(zeros)}, {unpack(zeros)}}, {}
  for tile = (newest - 1) * per_step, (newest + 1) * per_step - 1 do fields[#fields + 1] = text(tile) end
  local known = redis.call('HMGET', prefix .. 'tiles:' .. name, unpack(fields))
  for i = 1, #fields do
    local sums, tile = i > per_step and recent[2] or recent[3], known[i] and cmsgpack.unpack(known[i]) or zeros
    for c = 1, #tile do sums[c] = sums[c] + tile[c] end
  end
  return recent
end
local function add_running(recent, step, cell)
  if step > recent[1] then recent[1], recent[2], recent[3] = step, {unpack(zeros)}, step == recent[1] + 1 and recent[2] or {unpack(zeros)} end
  local sums = step == recent[1] and recent[2] or step == recent[1] - 1 and recent[3]
  for c = 1, sums and width or 0 do sums[columns[c]] = sums[columns[c]] + values[(cell - 1) * width + c] end
end

-- write
local first = 1
while first <= #cell_tile do -- a product's cells stand together, in the order of their tiles: one read and one write of its tiles
  local product, last = cell_product[first], first
  while cell_product[last + 1] == product do last = last + 1 end
  local name, fields, cells = products[product], {}, {}
  local recent = live and running_of(name, math.floor(cell_tile[last] / per_step))
  for cell = first, last do
    local tile = cell_tile[cell]
    local step, keep = math.floor(tile / per_step), true
    if step < first_step then first_step = step end
    if live then add_running(recent, step, cell) end
    if step <= closing then
      corrected = corrected + 1 -- the model may have read the tiles of this step, or may not
      local through = rolled_through(name)
      if through >= step then
        keep = step > through - keep_tiles
        if step > through - keep_steps then add(prefix .. 'steps:' .. name, {text(step)}, {cell}) end
      end
    end
    if keep then fields[#fields + 1], cells[#cells + 1] = text(tile), cell end
  end
  if #fields > 0 then add(prefix .. 'tiles:' .. name, fields, cells) end
  if live then redis.call('SET', prefix .. 'running:' .. name, cmsgpack.pack(recent)) else redis.call('DEL', prefix .. 'running:' .. name) end
  first = last + 1
end
for _, group in ipairs(call.hashes) do
  if group[1] >= seen_from then redis.call('SADD', prefix .. 'seen:' .. group[1] .. ':' .. group[2], unpack(group, 3)) end
end

-- What the shop knows ahead (feature_store/facts.py), in the order of its log. Nobody asks any more what was known before the step `oldest`.
local changed = {} -- {product, when it was sent}…, of products that are forecast
if call.facts or call.context then
  local oldest = tonumber(redis.call('HGET', closed_key, 'step') or -math.huge) - keep_steps
  local function content(version) return cmsgpack.pack({unpack(version, 2)}) end
  for _, fact in ipairs(call.facts or {}) do
    local name, sent, price, new = unpack(fact)
    local packed = redis.call('HGET', prefix .. 'facts', name)
    local facts = packed and cmsgpack.unpack(packed) or {-1, {}}
    local versions = facts[2]
    if facts[1] < 0 then facts[1] = price end
    local at, replaced = #versions, nil
    while at > 0 and versions[at][1] > new[1] do at = at - 1 end
    if at > 0 and versions[at][1] == new[1] then
      replaced = table.remove(versions, at)
      at = at - 1
    end
    local before = replaced or versions[at]
    if not before or content(before) ~= content(new) then
      if new[1] <= closing then corrected = corrected + 1 end
      if redis.call('ZSCORE', prefix .. 'live', name) then changed[#changed + 1] = {name, sent} end
    end
    if at == 0 or content(versions[at]) ~= content(new) then table.insert(versions, at + 1, new) end
    while versions[2] and versions[2][1] <= oldest do table.remove(versions, 1) end
    redis.call('HSET', prefix .. 'facts', name, cmsgpack.pack(facts))
  end

  -- Entries are {known from step, start, end, value, whether it is known ahead}. What was said of a time again is needed no longer once nobody asks what
  -- was known before that; the value that ends last holds on, however old it is. An entry without an end forgets all that was said before it.
  local function kept(entries)
    local found, said, last = {}, {}, 0
    for i = #entries, 1, -1 do
      local known, from, to = unpack(entries[i])
      local span = from .. ':' .. to
      local asked = not said[span] or said[span] > math.max(known, oldest)
      if asked and (to == 0 or to > oldest * shared.step_ms / 1000 or to > last) then table.insert(found, 1, entries[i]) end
      said[span], last = known, math.max(last, to)
      if to == 0 and known <= oldest then break end
    end
    return found
  end
  for _, change in ipairs(call.context or {}) do
    local fields, new = {change[1]}, change[2]
    if new[3] == 0 then -- in all scopes
      local series = change[1]:match('^[^\n]*\n')
      fields = {}
      for _, field in ipairs(redis.call('HKEYS', prefix .. 'context')) do
        if field:sub(1, #series) == series then fields[#fields + 1] = field end
      end
    end
    for _, field in ipairs(fields) do
      local packed = redis.call('HGET', prefix .. 'context', field)
      local entries = packed and cmsgpack.unpack(packed) or {}
      entries[#entries + 1] = new
      redis.call('HSET', prefix .. 'context', field, cmsgpack.pack(kept(entries)))
    end
    if new[1] <= closing then corrected = corrected + 1 end
  end
end

local moved, risen, counted = {}, {}, 0
local known_watermark = redis.call('HMGET', watermarks, unpack(sources))
for i = 1, #sources do
  moved[2 * i - 1], moved[2 * i] = sources[i], text(next_offset[i])
  counted = counted + next_offset[i] - math.max(stored[i], 0)
  if watermark[i] and tonumber(known_watermark[i] or -math.huge) < watermark[i] then risen[#risen + 1], risen[#risen + 2] = sources[i], text(watermark[i]) end
end
redis.call('HSET', offsets, unpack(moved))
if #risen > 0 then redis.call('HSET', watermarks, unpack(risen)) end
local sequence = redis.call('HINCRBY', offsets, 'sum', text(counted))
for _, each in ipairs(changed) do
  redis.call('ZADD', prefix .. 'dirty', text(sequence), each[1])
  redis.call('HSETNX', prefix .. 'dirty_since', each[1], each[2])
end
if #products == 0 then return {'applied', sequence, corrected} end

if closing == -math.huge then -- nothing is closed yet: closing starts at the first step that holds anything
  local start = redis.call('HGET', closed_key, 'step')
  if not start or tonumber(start) > first_step - 1 then
    redis.call('HSET', closed_key, 'step', first_step - 1, 'seen_from', math.floor(call.first_hour) - shared.seen_hours)
  end
end
for from = 1, #products, 1000 do -- Lua's stack holds a few thousand arguments
  local to = math.min(from + 999, #products)
  local live, dirty, since = {}, {}, {}
  local waiting = redis.call('HMGET', prefix .. 'dirty_since', unpack(products, from, to))
  for i = from, to do
    live[#live + 1], live[#live + 2] = call.newest_event[i], products[i]
    dirty[#dirty + 1], dirty[#dirty + 2] = text(sequence), products[i]
    if not waiting[i - from + 1] then since[#since + 1], since[#since + 2] = products[i], call.oldest_sent[i] end
  end
  redis.call('ZADD', prefix .. 'live', 'GT', unpack(live))
  redis.call('ZADD', prefix .. 'dirty', unpack(dirty))
  if #since > 0 then redis.call('HSET', prefix .. 'dirty_since', unpack(since)) end
end
return {'applied', sequence, corrected}
