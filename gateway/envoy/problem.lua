-- Turns a service's refusal into a problem document (RFC 9457).
--
-- The transcoder gives REST callers google.rpc.Status as JSON. This filter
-- stands before it, so it sees the response after it. It only rewrites: where
-- it fails, Envoy logs that and the response goes out as it came.

local TITLES = {--[[titles]]}
local REASONS = {[501] = '"METHOD_NOT_IMPLEMENTED"', [503] = '"UNAVAILABLE"', [504] = '"DEADLINE_EXCEEDED"'}
local TYPE = '"type.googleapis.com/google.rpc.'

-- Reads the JSON value at i, returns it and the position after it. Strings and
-- literals stay as they are written, quotes and escapes included, so that any
-- text goes through unharmed; objects have such strings as keys.
local function value(text, i)
  i = text:find("[^ \t\r\n]", i)
  local first = text:sub(i, i)
  if first == '"' then
    local j = i + 1
    while true do
      j = text:find('["\\]', j)
      if text:sub(j, j) == '"' then return text:sub(i, j), j + 1 end
      j = j + 2
    end
  elseif first == "{" or first == "[" then
    local items, key = {}, nil
    i = text:find("[^ \t\r\n]", i + 1)
    while not text:find("^[%]}]", i) do
      if first == "{" then
        key, i = value(text, i)
        i = text:find(":", i, true) + 1
      else
        key = #items + 1
      end
      items[key], i = value(text, i)
      i = text:find("[^ \t\r\n,]", i)
    end
    return items, i + 1
  end
  local j = text:find("[%s,%]}]", i) or #text + 1
  return text:sub(i, j - 1), j
end

local function details_of(status)
  local found = {}
  for _, detail in ipairs(status['"details"'] or {}) do
    found[detail['"@type"'] or ""] = detail
  end
  return found
end

local function errors_of(bad_request)
  local errors = {}
  for _, violation in ipairs(bad_request['"fieldViolations"'] or {}) do
    errors[#errors + 1] = '{"field":' .. (violation['"field"'] or '""')
      .. ',"description":' .. (violation['"description"'] or '""') .. "}"
  end
  return ',"errors":[' .. table.concat(errors, ",") .. "]"
end

-- The headers have to be asked for anew once the body has been waited for.
local function replace(handle, body, document)
  local headers = handle:headers()
  headers:replace("content-length", tostring(body:setBytes(document)))
  headers:replace("content-type", "application/problem+json")
  return headers
end

local function translate(handle, code)
  local body = handle:body(true)
  local status = value(body:getBytes(0, body:length()), 1)
  local details = details_of(status)
  local info = details[TYPE .. 'ErrorInfo"'] or {}
  local bad_request = details[TYPE .. 'BadRequest"']
  local retry = details[TYPE .. 'RetryInfo"']

  local reason = info['"reason"'] or REASONS[code] or '"INTERNAL"'
  local headers = replace(handle, body, '{"type":"urn:solmu:reason:' .. reason:sub(2)
    .. ',"title":"' .. (TITLES[code] or "Error")
    .. '","status":' .. code
    .. ',"detail":' .. (status['"message"'] or '""')
    .. ',"reason":' .. reason
    .. ',"domain":' .. (info['"domain"'] or '"node.solmu"')
    .. (bad_request and errors_of(bad_request) or "") .. "}")

  if code == 401 then headers:replace("www-authenticate", 'Bearer error="invalid_token"') end
  local delay = retry and tonumber((retry['"retryDelay"'] or ""):match("[%d.]+"))
  if delay then headers:replace("retry-after", tostring(math.ceil(delay))) end
end

-- What Envoy says of a malformed request, without what it quotes of it: an
-- error text has no payload. Any text that is not known gives way to the last.
local function unquoted(text)
  local field, kind = text:match('^"([%w_.%[%]]+): invalid value .* for type ([%w_./]+)"$')
  if field then return '"' .. field .. " is not of type " .. kind .. '"' end
  field = text:match('^"Could not find field \\"([%w_.]+)\\"')
  if field then return '"there is no field ' .. field .. '"' end
  field = text:match('^"The binding value .* of the field ([%w_.]+) is conflicting')
  if field then return '"' .. field .. ' has one value in the path and another in the body"' end
  local complaint = text:match('^("[%a ,.:/{}%[%]]+)\\n')
  return complaint and complaint .. '"' or '"the request is not of the method\'s shape"'
end

local function unquote(handle)
  local body = handle:body(true)
  local document = value(body:getBytes(0, body:length()), 1)
  if document['"reason"'] ~= '"JSON_MALFORMED"' then return end
  document['"detail"'] = unquoted(document['"detail"'])
  local members = {}
  for key, member in pairs(document) do
    members[#members + 1] = key .. ":" .. member
  end
  replace(handle, body, "{" .. table.concat(members, ",") .. "}")
end

function envoy_on_response(handle)
  local headers = handle:headers()
  headers:remove("grpc-status")
  headers:remove("grpc-message")
  headers:remove("grpc-accept-encoding")
  local code = tonumber(headers:get(":status"))
  local media_type = headers:get("content-type")
  if code >= 400 and media_type == "application/json" then
    translate(handle, code)
  elseif code == 400 and media_type == "application/problem+json" then
    unquote(handle)
  end
end
