/** A number's text with a true minus sign where it begins with a hyphen; as numerals.py has it. */
function trueMinus(text) {
  return text.replace(/^-/, "−");
}

