"""English sentences of our own, from 3 words to about 100, for where no text is given."""

SAMPLE_TEXT: tuple[str, ...] = (
    "The kettle whistled.",
    "Where is the invoice?",
    "Rain is expected tomorrow.",
    "Please reset my password.",
    "Snow fell on the harbour all night.",
    "Two adults, one child, arriving on Friday.",
    "The battery lasts about nine hours.",
    "Our refund policy changed in March 2021.",
    "How do I connect the printer to a wireless network?",
    "She tuned the old violin before anyone else had arrived.",
    "The committee postponed its vote until the auditors had finished their report.",
    "Error 504: the gateway did not answer within 30 seconds; try again later.",
    "A cheap pair of boots is rarely a bargain if you walk to work.",
    "Plants turn light, water and carbon dioxide into sugar, and give off oxygen as they do so.",
    "He had been told, more than once, that the bridge would be closed for repairs until the end of June.",
    "Mix 250 g of flour with half a teaspoon of salt, then add the butter in small cubes and rub it in.",
    "The film is beautifully shot and well acted, but its last half hour throws away everything that came before.",
    "To replace the filter, switch off the pump, close both valves, unscrew the lid counter-clockwise and lift the "
    "cartridge straight up.",
    "Shares in the shipping company fell by four per cent on Tuesday after it warned that fuel costs would weigh on "
    "its profits for the rest of the year.",
    "Although the river had flooded the lower fields every spring for as long as anybody could remember, the mill "
    "itself, which stood on a low rise, had never once been wet.",
    "I ordered the blue one in a medium; what came was a green one in a large, without a receipt, in a box that had "
    "clearly been opened before.",
    "The patient reported mild headaches in the evening, no fever, normal appetite and regular sleep, and was advised "
    "to drink more water and to come back in two weeks if nothing changed.",
    "In the northern hemisphere the shortest day of the year falls near the twenty-first of December, yet the coldest "
    "weeks usually come later, because land and sea go on losing heat long after the days have begun to lengthen.",
    "When the library moved to its new building, volunteers formed a line along the main street and passed the books "
    "from hand to hand, twelve thousand of them, until the shelves of the old reading room stood empty.",
    "The contract may be ended by either side with three months' notice in writing; where one side breaks a material "
    "term and does not mend the breach within thirty days of being told of it, the other may end the contract at once.",
    "A compiler reads a program as text, breaks it into words, arranges the words into a tree, checks that the tree "
    "makes sense, and only then begins the long work of turning it into instructions that a processor can carry out.",
    "The goalkeeper, who had let in two soft shots before the break and been whistled at by her own crowd, saved a "
    "penalty in the last minute, ran the whole length of the pitch, and was still laughing when the reporters found "
    "her an hour later.",
    "We walked down to the market before sunrise, when the stalls were still being put up and the fish lay on crushed "
    "ice under bare electric bulbs, and my grandmother, who trusted nobody's scales but her own, took hers out of her "
    "bag, set them on the counter, and began to weigh.",
    "If your parcel has not arrived within ten working days, first check with your neighbours and at the nearest post "
    "office, then sign in to your account, open the order, choose 'Report a problem', describe what happened, and "
    "attach a photograph of the card that the driver left, if there was one; we usually answer on the same day.",
    "The telescope does not see the planet itself, which is far too faint beside its star; what it measures is the "
    "tiny dip in brightness, less than one part in a thousand, each time the planet passes in front, and from the "
    "depth and the length of that dip, repeated every few days, astronomers work out how large the planet is and how "
    "far from its star it travels.",
    "Nobody had planned for the town to grow: a ferry crossed where the river was narrow, so an inn was built for "
    "travellers who had missed it; the inn needed bread, so a baker came; the baker needed flour, so somebody dammed "
    "the stream and put up a mill; and by the time the king's surveyor rode through with his chains and his notebooks "
    "there were forty houses, a church with no roof, two taverns that did not speak to each other, and a weekly "
    "market at which, he wrote, anything might be bought but silence.",
    "Before you ask for a review, read your own change once from the top as if somebody else had written it: does the "
    "title say what changed, does the description say why, is every file that was touched there for a reason, would "
    "the tests fail if the new lines were taken out again, and is there a simpler way that you have only now thought "
    "of? Ten minutes spent like this save the reviewer an hour, and they save you the odd feeling, three days later, "
    "of defending a line of code that you no longer like yourself.",
)
