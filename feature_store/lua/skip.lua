-- An operator moves the position of a source whose log no longer holds what comes next. ARGV: prefix, source, the next offset to count; and, to set the
-- position back (the log lost its end), the offset that the shard must still hold (-1: none), so that nothing that was counted meanwhile is counted again.
-- Returns the records skipped in this shard (0: it had counted further already); when setting back 1, or 0: the shard holds another offset.
-- The sequence never falls, whatever becomes of the offsets that it once summed: readers keep the forecast with the greatest.
local prefix, source, next_offset, holding = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4] or '')
local offsets = prefix .. 'offsets'
local stored = tonumber(redis.call('HGET', offsets, source) or -1)
if holding and stored == next_offset then return 1 end -- repeated, after an answer that was lost
if holding and stored ~= holding then return 0 end
if not holding and stored >= next_offset then return 0 end
local skipped = math.max(next_offset - math.max(stored, 0), 0)
redis.call('HSET', offsets, source, next_offset)
redis.call('HINCRBY', offsets, 'sum', skipped)
return holding and 1 or skipped
