Feature: Chats with tools, images and thinking
  A chat goes through the native API whole. What the model thinks, says and calls comes apart, is receipted, recorded, replayed and deleted like
  every answer. What a pool cannot do is refused by name.

  @LO-415 @LO-416 @LO-204
  Scenario: A conversation with a tool, from the question to the answer
    Given a scripted engine plays
      """
      {"rules": [
        {"match": "weather", "role": "user", "play": [
          {"reasoning": "It asks for the weather.", "cut": 5}, {"text": "I look."},
          {"call": {"n": 0, "name": "weather"}}, {"call": {"n": 0, "arguments": "{\"city\":\"Bern\"}"}, "cut": 4},
          {"call": {"n": 1, "name": "clock", "arguments": "{}"}}]},
        {"match": "12 degrees", "role": "tool", "play": [{"text": "It is 12 degrees.", "cut": 3}]}
      ]}
      """
    And the settings
      | artifacts | {keep_prompts: true} |
    And a daemon in front of the scripted engine
    When I submit the chat "ask"
      """
      {"messages": [{"role": "user", "content": "What is the weather in Bern?"}], "reasoning": {"split": true},
       "tools": [{"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}, {"name": "clock"}]}
      """
    And I follow task "ask"
    Then stream "ask" thinks "It asks for the weather." and says "I look."
    And stream "ask" calls
      | weather | {"city":"Bern"} |
      | clock   | {}              |
    And the end of stream "ask" has
      | finish_reason           | tool_calls      |
      | tool_calls.0.name       | weather         |
      | tool_calls.0.arguments  | {"city":"Bern"} |
      | tool_calls.1.id         | $CALL1          |
      | receipt.transcript_form | parts           |
    When I submit the chat "answer"
      """
      {"messages": [
         {"role": "user", "content": "What is the weather in Bern?"},
         {"role": "assistant", "content": "I look.", "reasoning": "It asks for the weather.", "tool_calls": [
           {"id": "$CALL0", "name": "weather", "arguments": "{\"city\":\"Bern\"}"}, {"id": "$CALL1", "name": "clock", "arguments": "{}"}]},
         {"role": "tool", "tool_call_id": "$CALL1", "content": "noon"},
         {"role": "tool", "tool_call_id": "$CALL0", "content": [{"type": "text", "text": "12 degrees"}]}],
       "tools": [{"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}, {"name": "clock"}]}
      """
    And I follow task "answer"
    Then stream "answer" thinks "" and says "It is 12 degrees."
    And the end of stream "answer" has
      | finish_reason           | stop   |
      | tool_calls              | absent |
      | receipt.transcript_form | text   |
    When I run "llama-orch replay {ask}"
    Then it exits with 0
    And it says "match: "
    When I run "llama-orch stream {ask}"
    Then it exits with 0
    And it says "It asks for the weather."
    And it says "call weather {"city":"Bern"} as $CALL0"
    When I run "llama-orch task {ask}"
    Then it exits with 0
    And it says "clock {} as $CALL1"

  @LO-415
  Scenario Outline: What a pool cannot do is refused by name
    Given a scripted engine without tools plays
      """
      {"rules": [{"play": [{"text": "yes"}]}]}
      """
    And a daemon in front of the scripted engine
    When I submit the chat "refused"
      """
      <chat>
      """
    Then the answer is 400 INVALID_PARAMS
    And its message says "<says>"

    Examples:
      | chat | says |
      | {"messages": [{"role": "user", "content": "x"}], "tools": [{"name": "weather"}]} | takes no tools |
      | {"messages": [{"role": "user", "content": [{"type": "image", "media_type": "image/png", "data": "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="}]}]} | takes no images |

  @LO-415
  Scenario: A chat goes to the pool that can do what it asks
    Given a scripted engine without tools plays
      """
      {"rules": [{"play": [{"text": "from the plain one"}]}]}
      """
    And a pool "plain" in front of the scripted engine
    And a scripted engine that sees plays
      """
      {"rules": [{"play": [{"text": "I see it"}]}]}
      """
    And a pool "able" in front of the scripted engine
    And a daemon
    When I submit the chat "picture"
      """
      {"messages": [{"role": "user", "content": [{"type": "text", "text": "What is this?"},
        {"type": "image", "media_type": "image/png", "data": "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="}]}],
       "format": {"type": "json_schema", "schema": {"type": "object"}}}
      """
    And I follow task "picture"
    Then stream "picture" says "I see it"
    When I send GET "/v1/pools"
    Then its body has
      | pools.0.features | ["formats", "grammars", "logit_bias", "logprobs", "reasoning", "template_arguments"]                      |
      | pools.1.features | ["formats", "grammars", "images", "logit_bias", "logprobs", "reasoning", "template_arguments", "tools"] |

  @LO-410
  Scenario: The built-in worker keeps to a grammar, and refuses a JSON schema by name
    Given the shared daemon
    When I submit the chat "bound"
      """
      {"messages": [{"role": "user", "content": "Say something."}], "format": {"type": "grammar", "grammar": "root ::= \"a frog\" \" sits\""}}
      """
    And I follow task "bound"
    Then stream "bound" says "a frog sits"
    When I submit the chat "unreadable"
      """
      {"messages": [{"role": "user", "content": "Say something."}], "format": {"type": "grammar", "grammar": "root ::= ("}}
      """
    And I follow task "unreadable"
    Then stream "unreadable" ends with error INVALID_PARAMS
    When I submit the chat "schema"
      """
      {"messages": [{"role": "user", "content": "x"}], "format": {"type": "json_schema", "schema": {"type": "object"}}}
      """
    Then the answer is 400 INVALID_PARAMS
    And its message says "takes no format"

  @LO-415 @LO-102
  Scenario Outline: A chat that contradicts itself is refused before any pool is asked
    Given the shared daemon
    When I submit the chat "bad"
      """
      <chat>
      """
    Then the answer is 400 INVALID_PARAMS
    And its message says "<says>"
    And the daemon still serves

    Examples:
      | chat | says |
      | {"messages": [{"role": "tool", "tool_call_id": "c", "content": "x"}]} | `messages[0].tool_call_id` is "c", and no message before it has a call of this id |
      | {"messages": [{"role": "user", "content": [{"type": "image", "media_type": "image/png", "data": "AAAA"}]}]} | `messages[0].content[0]` is no image that is known here |
      | {"messages": [{"role": "user", "content": [{"type": "image", "media_type": "image/png", "data": "?"}]}]} | is an image whose `data` is no base64 |
      | {"messages": [{"role": "user", "content": "x"}], "tools": [{"name": "a"}, {"name": "a"}]} | `tools[1].name` is "a", as of a tool before it |
      | {"messages": [{"role": "user", "content": "x"}], "tools": [{"name": "a", "parameters": [1]}]} | `tools[0].parameters` must be a JSON schema that is an object |
      | {"messages": [{"role": "user", "content": "x"}], "tool_choice": "fly"} | `tool_choice` is "fly", which is none of auto, none, required and the names of the tools |
      | {"messages": [{"role": "user", "content": "x"}], "format": {"type": "grammar", "grammar": " "}} | `format.grammar` is empty |
      | {"messages": [{"role": "user", "content": "x"}], "format": {"type": "json_schema", "schema": 7}} | `format.schema` must be a JSON schema that is an object |
      | {"prompt": "x", "tools": [{"name": "a"}]} | `tools` is of a chat |

  @LO-416 @LO-202 @LO-201
  Scenario: Thinking and calls go on byte for byte after a kill -9
    Given a scripted engine plays
      """
      {"rules": [
        {"match": "long", "times": 1, "play": [{"reasoning": "one two three", "cut": 4}, {"call": {"n": 0, "name": "go"}}, {"call": {"n": 0, "arguments": "{\"a\":"}}, {"wait": true}]},
        {"match": "long", "play": [{"reasoning": "one two three", "cut": 4}, {"call": {"n": 0, "name": "go"}}, {"call": {"n": 0, "arguments": "{\"a\":"}}, {"call": {"n": 0, "arguments": "1}"}}]}
      ]}
      """
    And a daemon in front of the scripted engine
    When I submit the chat "long"
      """
      {"messages": [{"role": "user", "content": "a long way"}], "reasoning": {"split": true}, "tools": [{"name": "go"}], "tool_choice": "required", "seed": 7}
      """
    And I follow task "long" as "cut"
    Then stream "cut" has 5 tokens
    When I kill the daemon
    Then stream "cut" breaks off
    When I start the daemon again
    And I follow task "long" as "resumed", from where "cut" broke off
    And I follow task "long" as "whole"
    Then stream "resumed" thinks "one two three" and says ""
    And stream "resumed" calls
      | go | {"a":1} |
    And streams "resumed" and "whole" brought the same bytes

  @LO-416 @LO-832 @LO-833
  Scenario: A deletion leaves no word of a chat
    Given a scripted engine that sees plays
      """
      {"rules": [{"play": [{"reasoning": "thought-of-it"}, {"text": "answered-with-it"}, {"call": {"n": 0, "name": "called_it", "arguments": "{\"argued-with-it\":1}"}}]}]}
      """
    And the settings
      | artifacts | {keep_prompts: true, keep_transcripts: true} |
    And a daemon in front of the scripted engine
    When I submit the chat "gone"
      """
      {"task_id": "gone", "messages": [{"role": "user", "content": [{"type": "text", "text": "asked-for-it"},
        {"type": "image", "media_type": "image/gif", "data": "R0lGODlhcGljdHVyZS1vZi1pdA=="}]}],
       "tools": [{"name": "called_it", "description": "tooled-with-it"}], "reasoning": {"split": true}}
      """
    And I follow task "gone"
    Then stream "gone" thinks "thought-of-it" and says "answered-with-it"
    And files of the data folder hold each of
      | thought-of-it            |
      | answered-with-it         |
      | argued-with-it           |
      | asked-for-it             |
      | R0lGODlhcGljdHVyZS1vZi1p |
      | tooled-with-it           |
    When I run "llama-orch rm gone"
    Then it exits with 0
    And no file of the data folder holds any of
      | thought-of-it            |
      | answered-with-it         |
      | argued-with-it           |
      | asked-for-it             |
      | R0lGODlhcGljdHVyZS1vZi1p |
      | tooled-with-it           |
      | called_it                |
