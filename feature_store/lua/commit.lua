-- Store what the forecaster computed for some products of a shard, with the messages that follow from it: all of it, or nothing.
-- ARGV: prefix, owner token, call (msgpack), then blobs. The call names the products: {name, first and last step to close (last < first: none), dirty since
-- or false, whether it has a new trial}. Blobs, product after product: expected headers of features and scores, then features and state where a step closes,
-- scores, the trial; last the outbox messages. (cmsgpack knows no binary strings, so those are arguments.) Sums of outcomes, {day, {integers}}, are added to
-- what `calibration` holds of the model and the day, those of steps lived through, {day, category, {integers}}, to what `launches` holds; older days are forgotten.
-- Two records share a key, which costs Redis some hundred bytes less than a key for each: features and state in `state:`, scores and trial in `scores:`, the
-- length of the first in the last four bytes.
-- Returns {'committed', sequence} | {'lost'} (another owner) | {'rolled_back', sequence} (less than what the decision knew is counted) | {'stale', product, …} (their records are not those that were read; nothing is written).
local prefix, token, call = ARGV[1], ARGV[2], cmsgpack.unpack(ARGV[3])
if redis.call('GET', prefix .. 'owner') ~= token then return {'lost'} end
local sequence = tonumber(redis.call('HGET', prefix .. 'offsets', 'sum') or 0)
if sequence < call.known then return {'rolled_back', sequence} end

-- read and check
local stale, blob = {}, 4
for _, product in ipairs(call.products) do
  local name, first, last = product[1], product[2], product[3]
  if redis.call('GETRANGE', prefix .. 'state:' .. name, 0, 15) ~= ARGV[blob] or redis.call('GETRANGE', prefix .. 'scores:' .. name, 0, 15) ~= ARGV[blob + 1] then
    stale[#stale + 1] = name
  end
  blob = blob + 3 + (first <= last and 2 or 0) + (product[5] and 1 or 0)
end
if #stale > 0 then return {'stale', unpack(stale)} end

-- write
local per_step = call.tiles_per_step
-- Roll the tiles of the steps up that the product consumes, and trim what these push out. Most products are silent in most steps, so the tiles that
-- exist are looked through once. A product that is born takes older tiles too: a late event may have come after its first tile was looked for.
local function roll_up(tiles, steps, first, last, born)
  local sums, gone = {}, {}
  local fields = redis.call('HGETALL', tiles)
  for i = 1, #fields, 2 do
    local step = math.floor(tonumber(fields[i]) / per_step)
    if step <= last and (step >= first or born) then
      local tile = cmsgpack.unpack(fields[i + 1])
      local sum = sums[step]
      if sum then
        for j = 1, #tile do sum[j] = sum[j] + tile[j] end
      else
        sums[step] = tile
      end
    end
    if step <= last - call.keep_tiles then gone[#gone + 1] = fields[i] end
  end
  for step, sum in pairs(sums) do redis.call('HSET', steps, step, cmsgpack.pack(sum)) end
  if #gone > 0 then redis.call('HDEL', tiles, unpack(gone)) end
  gone = {}
  for step = first, last do gone[#gone + 1] = step - call.keep_steps end
  redis.call('HDEL', steps, unpack(gone))
end
local function joined(one, other) return one .. other .. struct.pack('<I4', #one) end
local function second(both) return both and both:sub(struct.unpack('<I4', both, #both - 3) + 1, -5) or '' end
blob = 4
for _, product in ipairs(call.products) do
  local name, first, last, since, tried = unpack(product)
  local tiles, steps = prefix .. 'tiles:' .. name, prefix .. 'steps:' .. name
  local born = ARGV[blob] == ''
  blob = blob + 2
  if first <= last then
    roll_up(tiles, steps, first, last, born)
    redis.call('SET', prefix .. 'state:' .. name, joined(ARGV[blob], ARGV[blob + 1]))
    blob = blob + 2
  end
  local scores = prefix .. 'scores:' .. name
  redis.call('SET', scores, joined(ARGV[blob], tried and ARGV[blob + 1] or second(redis.call('GET', scores))))
  blob = blob + (tried and 2 or 1)
  if since then
    redis.call('ZADD', prefix .. 'dirty', sequence, name)
    redis.call('HSETNX', prefix .. 'dirty_since', name, since)
  end
end
-- `day_of` finds the day in the name of a field
local function add(key, field, sums, oldest, day_of)
  local stored = redis.call('HGET', key, field)
  if stored then
    local before = cmsgpack.unpack(stored)
    if #before == #sums then  -- else of a program that summed up other things
      for i = 1, #sums do sums[i] = sums[i] + before[i] end
    end
  else
    for _, known in ipairs(redis.call('HKEYS', key)) do
      if tonumber(known:match(day_of)) < oldest then redis.call('HDEL', key, known) end
    end
  end
  redis.call('HSET', key, field, cmsgpack.pack(sums))
end
for _, found in ipairs(call.sums) do add(prefix .. 'calibration', call.model .. ':' .. found[1], found[2], found[1] - call.keep_days, '-?%d+$') end
for _, found in ipairs(call.lived) do add(prefix .. 'launches', found[1] .. ':' .. found[2], found[3], found[1] - call.keep_lived, '^-?%d+') end
for _, id in ipairs(call.outbox) do
  redis.call('HSET', prefix .. 'outbox', id, ARGV[blob])
  blob = blob + 1
end
return {'committed', sequence}
