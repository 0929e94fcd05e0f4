"""Known noise for `benchmarks.cleaning`: what it is and where it was put is known exactly."""

import base64
import random
import string
from collections.abc import Callable, Sequence

EDIT_RATES = (0.01, 0.02, 0.05, 0.10, 0.15, 0.20)

# A few plain sentences per language; a document is a random choice of them.
SENTENCES = {
    "de": "Alle Menschen sind frei und gleich an Würde und Rechten geboren. Der Zug nach München "
    "fährt heute eine Stunde später ab. Ich habe gestern ein neues Buch über die Geschichte "
    "Europas gekauft. Die Kinder spielen im Garten, während die Großmutter einen Kuchen backt. "
    "Wer am Morgen früh aufsteht, kann die Vögel singen hören.",
    "fr": "Tous les êtres humains naissent libres et égaux en dignité et en droits. Le train de "
    "Lyon partira aujourd'hui avec une heure de retard. J'ai acheté hier un nouveau livre sur "
    "l'histoire de l'Europe. Les enfants jouent dans le jardin pendant que leur grand-mère "
    "prépare un gâteau. Celui qui se lève tôt entend chanter les oiseaux.",
    "es": "Todos los seres humanos nacen libres e iguales en dignidad y derechos. El tren de "
    "Sevilla saldrá hoy con una hora de retraso. Ayer compré un libro nuevo sobre la historia de "
    "Europa. Los niños juegan en el jardín mientras su abuela prepara un pastel. Quien se levanta "
    "temprano puede oír cantar a los pájaros.",
    "it": "Tutti gli esseri umani nascono liberi ed eguali in dignità e diritti. Il treno per "
    "Milano partirà oggi con un'ora di ritardo. Ieri ho comprato un nuovo libro sulla storia "
    "d'Europa. I bambini giocano in giardino mentre la nonna prepara una torta. Chi si alza presto "
    "può sentire cantare gli uccelli.",
    "pl": "Wszyscy ludzie rodzą się wolni i równi pod względem swej godności i swych praw. Pociąg "
    "do Krakowa odjedzie dziś godzinę później. Wczoraj kupiłem nową książkę o historii Europy. "
    "Dzieci bawią się w ogrodzie, a babcia piecze ciasto. Kto wcześnie wstaje, ten słyszy śpiew "
    "ptaków.",
    "ru": "Все люди рождаются свободными и равными в своем достоинстве и правах. Поезд в Москву "
    "отправится сегодня на час позже. Вчера я купил новую книгу об истории Европы. Дети играют в "
    "саду, пока бабушка печёт пирог. Кто рано встаёт, тот слышит пение птиц.",
    "nl": "Alle mensen worden vrij en gelijk in waardigheid en rechten geboren. De trein naar "
    "Utrecht vertrekt vandaag een uur later. Gisteren heb ik een nieuw boek over de geschiedenis "
    "van Europa gekocht. De kinderen spelen in de tuin terwijl oma een taart bakt.",
    "sv": "Alla människor är födda fria och lika i värde och rättigheter. Tåget till Göteborg "
    "avgår i dag en timme senare. I går köpte jag en ny bok om Europas historia. Barnen leker i "
    "trädgården medan mormor bakar en kaka.",
}

_BOILERPLATE: tuple[Sequence[str], ...] = (
    ("Home", "About us", "Products", "Contact", "Log in", "Register", "Cart (0)", "Search", "Help",
     "Sitemap", "Careers", "Press", "Blog", "Newsletter"),
    ("We use cookies to improve your experience", "By using this site you accept our cookie policy",
     "Accept all", "Reject", "Manage my preferences", "Privacy policy", "Terms of use", "Imprint"),
    ("Share on Facebook", "Tweet this", "Share by mail", "Print this page", "0 comments",
     "Leave a reply", "Read more ...", "Older posts", "Newer posts", "Back to top"),
    ("Lorem ipsum dolor sit amet, consectetur adipiscing elit, sed do eiusmod tempor.",
     "Lorem ipsum dolor sit amet, ut enim ad minim veniam, quis nostrud exercitation.",
     "Duis aute irure dolor in reprehenderit in voluptate velit esse cillum dolore."),
    ("Please enable JavaScript to view this page", "Loading ...", "Loading ...", "Advertisement",
     "Sign up for our newsletter", "Download our app", "Follow us", "Follow us", "Follow us"),
    ("Sponsored", "You may also like", "Top 10 tricks that doctors hate", "Click here",
     "Click here", "Buy now", "Add to basket", "In stock", "Free shipping", "In stock"),
)  # fmt: skip

_ACCENTS = ("naïve café", "the façade in Zürich", "“quoted”", "it’s", "déjà vu", "Ångström — unit",
            "a résumé", "El Niño", "50 €", "señor", "über", "Gödel’s proof")  # fmt: skip


def edit(text: str, rate: float, vocabulary: Sequence[str], chance: random.Random) -> str:
    """Replace, delete or insert words: `rate` of them, at random places."""
    words: list[str] = []
    for word in text.split(" "):
        if chance.random() >= rate:
            words.append(word)
            continue
        match chance.randrange(3):
            case 0:
                words.append(chance.choice(vocabulary))
            case 1:
                words += [word, chance.choice(vocabulary)]
    return " ".join(words)


def accented(text: str, chance: random.Random) -> str:
    """A clean text with characters outside ASCII at random places."""
    words = text.split(" ")
    for _ in range(chance.randint(2, 6)):
        words.insert(chance.randint(0, len(words)), chance.choice(_ACCENTS))
    return " ".join(words)


def mojibake(text: str, chance: random.Random) -> str | None:
    """UTF-8 that was read as another encoding, once or twice; None where it has no such reading."""
    encoding = chance.choice(("cp1252", "latin-1"))
    try:
        for _ in range(chance.choice((1, 1, 1, 2))):
            text = text.encode("utf-8").decode(encoding)
    except UnicodeDecodeError:
        return None
    return text


def foreign(chance: random.Random) -> tuple[str, str]:
    """A text in another language, with its code."""
    language = chance.choice(sorted(SENTENCES))
    sentences = SENTENCES[language].split(". ")
    return language, ". ".join(chance.choices(sentences, k=chance.randint(2, 5)))


def random_text(chance: random.Random) -> str:
    """Text without a language: letters, digits, base64, or one word again and again."""

    def letters() -> str:
        sizes = [chance.randint(1, 12) for _ in range(60)]
        return " ".join("".join(chance.choices(string.ascii_lowercase, k=size)) for size in sizes)

    makers: tuple[Callable[[], str], ...] = (
        letters,
        lambda: " ".join(str(chance.randrange(10**6)) for _ in range(60)),
        lambda: base64.b64encode(chance.randbytes(300)).decode(),
        lambda: " ".join("".join(chance.choices(string.punctuation, k=4)) for _ in range(60)),
    )
    return chance.choice(makers)()


def boilerplate(chance: random.Random) -> str:
    """Menus, banners and footers, and nothing else."""
    lines = list(chance.choice(_BOILERPLATE)) + list(chance.choice(_BOILERPLATE))
    return "\n".join(chance.choices(lines, k=chance.randint(10, 25)))
