Feature: The status page
  A browser gets a page at the address of the server. Whoever accepts no HTML gets there what they got before.

  @LO-603
  Scenario Outline: Who gets the page
    Given the shared daemon
    When I send GET "/" with the headers
      | Accept | <accept> |
    Then the answer is 200
    And its headers have
      | Content-Type | <type> |
      | Vary         | Accept |

    Examples:
      | accept                                        | type                      |
      | text/html,application/xhtml+xml,*/*;q=0.8     | text/html; charset=utf-8  |
      | application/json, text/html;q=0.9             | text/html; charset=utf-8  |
      | */*                                           | text/plain; charset=utf-8 |
      | text/html;q=0, */*                            | text/plain; charset=utf-8 |
      | application/json                              | text/plain; charset=utf-8 |

  @LO-603
  Scenario Outline: The page may be off
    Given the settings
      | page   | off      |
      | fronts | <fronts> |
    And a daemon
    When I send GET "/" with the headers
      | Accept | text/html |
    Then the answer is <answer>
    When I send GET "/page/events"
    Then the answer is 404 NOT_FOUND

    Examples:
      | fronts   | answer        |
      | [ollama] | 200           |
      | []       | 404 NOT_FOUND |

  @LO-603
  Scenario: Without Ollama's front, clients that accept no HTML find nothing at /
    Given the settings
      | fronts | [] |
    And a daemon
    When I send GET "/"
    Then the answer is 404 NOT_FOUND
    When I send GET "/" with the headers
      | Accept | text/html |
    Then the answer is 200

  @LO-604 @LO-605
  Scenario: Where a token is needed, the page is a field for it, and shows nothing
    Given the settings
      | auth | {optional_on_loopback: false} |
    And the environment
      | LLORCH_API_TOKEN | the-right-token-1234 |
    And a daemon
    When I send GET "/" with the headers
      | Authorization | none      |
      | Accept        | text/html |
    Then the answer is 200
    And its headers have
      | Content-Security-Policy | /default-src 'none'; script-src 'self'; style-src 'self'/ |
      | Content-Type            | text/html; charset=utf-8                                  |
      | Cache-Control           | no-store                                                  |
    When I send GET "/page/events" with the headers
      | Authorization | none |
    Then the answer is 401 MISSING_TOKEN
    When I send GET "/page/style.css" with the headers
      | Authorization | none |
    Then the answer is 200
    When I send GET "/page/login" with the headers
      | Authorization | none |
    Then the answer is 405 METHOD_NOT_ALLOWED
    When I send GET "/page/nothing"
    Then the answer is 404 NOT_FOUND
